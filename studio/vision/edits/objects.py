"""Edits of the scene, rendered again."""

from __future__ import annotations

from dataclasses import replace

from studio.core.late import torch
from studio.vision.edits.transform import Transform
from studio.vision.edits.vocabulary import either, paint
from studio.vision.scenes import OBJECTS, Scene


def _recolour_obj(scene: Scene, p: torch.Tensor) -> Scene:
    return replace(scene, fill=paint(p[:, 0])[:, None].expand_as(scene.fill))


def _recolour_bg(scene: Scene, p: torch.Tensor) -> Scene:
    return replace(scene, ground=paint(p[:, 0], 0.5, 0.9), ground2=paint(p[:, 0], 0.6, 0.7))


def _swap_fg_bg(scene: Scene, p: torch.Tensor) -> Scene:
    return replace(
        scene,
        ground=scene.fill[:, 0],
        ground2=scene.accent[:, 0],
        fill=scene.ground[:, None].expand(-1, OBJECTS, -1),
        accent=scene.ground2[:, None].expand(-1, OBJECTS, -1),
    )


def _grow(scene: Scene, p: torch.Tensor) -> Scene:
    return replace(scene, radius=scene.radius * either(p[:, 0], (0.5, 0.72), (1.25, 1.5))[:, None])


def _hollow(scene: Scene, p: torch.Tensor) -> Scene:
    return replace(scene, hollow=torch.ones_like(scene.hollow))


def _add_eyes(scene: Scene, p: torch.Tensor) -> Scene:
    return replace(scene, eyes=torch.ones_like(scene.eyes))


def _add_hat(scene: Scene, p: torch.Tensor) -> Scene:
    return replace(scene, hat=1 + (p[:, 0].clamp(0, 0.999) * 3).long())


def _obj_stripes(scene: Scene, p: torch.Tensor) -> Scene:
    return replace(scene, texture=torch.full_like(scene.texture, 2), accent=scene.fill * 0.35)


OBJECT_EDITS = (
    Transform("recolour_obj", "object", _recolour_obj, 1, "cyclic", "scene"),
    Transform("recolour_bg", "object", _recolour_bg, 1, "cyclic", "scene"),
    Transform("swap_fg_bg", "object", _swap_fg_bg, 0, "none", "scene"),
    Transform("grow", "object", _grow, 1, "linear", "scene"),
    Transform("hollow", "object", _hollow, 0, "none", "scene"),
    Transform("add_eyes", "object", _add_eyes, 0, "none", "scene"),
    Transform("add_hat", "object", _add_hat, 1, "choice", "scene"),
    Transform("obj_stripes", "object", _obj_stripes, 0, "none", "scene"),
)
