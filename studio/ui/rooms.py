"""The rooms of the page, in the order of their tabs; the first is the one that the page opens with."""

from __future__ import annotations

from studio.ui.compose import page as compose
from studio.ui.compose.learn import page as learn
from studio.ui.judge import page as judge
from studio.ui.pictures.analogy import page as analogy
from studio.ui.pictures.image import page as image
from studio.ui.route import page as route
from studio.ui.route.modalities import page as modalities
from studio.ui.shell.room import Room

ROOMS: tuple[Room, ...] = (
    compose.ROOM,
    learn.ROOM,
    judge.ROOM,
    route.ROOM,
    modalities.ROOM,
    analogy.ROOM,
    image.ROOM,
)
