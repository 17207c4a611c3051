"""What the panels of the room share: the visitor's session, the models, and the number that says to draw again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr

from studio.core.errors import Cancelled, LoomError
from studio.session.analogy import AnalogySession, Other, Picture
from studio.session.session import Session
from studio.ui.pictures.analogy.models import Models, OnStep, Opened
from studio.ui.shell.panel import Shared
from studio.vision.analogist import Analogist
from studio.vision.kontext import KontextModel
from studio.vision.pictures import to_picture
from studio.vision.space import between, gained, ready
from studio.vision.world import Task

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(eq=False)
class AnalogyRoom:
    """The visitors' analogies, the models, and `version`, whose change draws b' anew."""

    shared: Shared
    version: gr.State
    models: Models = field(default_factory=Models)

    def session(self, token: str) -> AnalogySession:
        """The visitor's session; raises `LoomError` for who has not entered."""
        return self.shared.session(token).analogy

    def full(self, token: str) -> AnalogySession:
        """The visitor's session with all three pictures; raises `LoomError` while one is missing."""
        found = self.session(token)
        if found.seen is None:
            raise LoomError("There is no analogy yet", next="fill a, a′ and b, or pick a ready analogy")
        return found

    def change(self, token: str, **fields: Any) -> int:
        """Replace fields of the session; the new version."""
        return self.shared.session(token).change_analogy(**fields).version

    def look(self, token: str, pictures: Sequence[Picture | None], truth: Picture | None) -> int:
        """Have the model see the pictures, once for all drawings of them; the new version."""
        session = self.session(token)
        a, a2, b = pictures
        seen = None
        if a is not None and a2 is not None and b is not None:
            seen = self.model(session).look(a, a2, b)
        return self.change(token, pictures=(a, a2, b), truth=truth, seen=seen)

    def ready(self, task: Task, scene: int) -> tuple[Picture, Picture, Picture, Picture]:
        """a, a', b and the right b' of an analogy of the world."""
        found = ready(task, scene)
        return to_picture(found.a), to_picture(found.a2), to_picture(found.b), to_picture(found.truth)

    def opened(self, session: AnalogySession) -> Opened:
        """The model of a session."""
        return self.models.get(session.model)

    def model(self, session: AnalogySession) -> Analogist:
        """What draws for a session; FLUX is told the visitor's own words."""
        found = self.opened(session).model
        return found.told(session.prompting) if isinstance(found, KontextModel) and session.prompting else found

    def mixed(self, session: AnalogySession) -> Tensor:
        """The mix that is drawn: routed, moved towards the other, then the gains."""
        mix = self.model(session).route(session.seen, session.temperature)
        if session.other is not None and session.t:
            mix = between(mix, session.other.mix, session.t)
        return gained(mix, session.gains, renormalise=session.renormalise)

    def blended(self, session: AnalogySession) -> Any:
        """What is drawn from: the pictures as seen, moved towards the other's example."""
        if session.other is None or not session.t:
            return session.seen
        return self.model(session).blend(session.seen, session.other.seen, session.t)

    def towards(self, session: AnalogySession, task: Task, scene: int) -> Other:
        """An analogy of the world as the other end of the way, with the visitor's b."""
        a, a2, _, _ = self.ready(task, scene)
        b = session.pictures[2]
        assert b is not None
        model = self.model(session)
        seen = model.look(a, a2, b)
        return Other(seen, model.route(seen, session.temperature))

    def drawing(self, token: str, session: AnalogySession, **fields: Any) -> Drawing:
        """A drawing of a session, some fields changed; it stops once the visitor has moved on."""
        changed = replace(session, **fields)
        return Drawing(self, self.shared.session(token), changed, self.mixed(changed))


class Drawing:
    """Draws one b' and shows how far it is; raises `Cancelled` where something newer is wanted."""

    def __init__(self, room: AnalogyRoom, visitor: Session, session: AnalogySession, mix: Tensor) -> None:
        self.room, self.visitor, self.session, self.mix = room, visitor, session, mix
        self.picture: Picture | None = None

    def __call__(self, on_step: OnStep | None = None) -> Picture:
        """The finished picture; `on_step` hears of every step."""
        session = self.session
        return self.room.model(session).draw(
            self.room.blended(session),
            self.mix,
            steps=session.steps,
            seed=session.seed,
            strength=session.strength,
            on_step=partial(self._step, on_step),
        )

    @property
    def is_current(self) -> bool:
        """Whether the visitor still looks at this."""
        return self.visitor.analogy.version == self.session.version

    def _step(self, on_step: OnStep | None, done: int, of: int, picture: Picture | None) -> None:
        self.picture = picture
        if on_step is not None:
            on_step(done, of, "")
        if done < of and not self.is_current:
            raise Cancelled("Something newer is drawn")
