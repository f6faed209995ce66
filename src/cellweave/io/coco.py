"""COCO JSON: keypoints, boxes and polygons (https://cocodataset.org/#format-data); also plain points."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from cellweave.core.errors import ReadError
from cellweave.io.marks import Marks

NAME = "COCO"


def recognises(data: Any) -> bool:
    """Whether parsed JSON has the lists of COCO."""
    return isinstance(data, dict) and isinstance(data.get("images"), list) and "annotations" in data


def find(path: Path, data: Any) -> tuple[list[Marks], list[str]]:
    """The marks of every image.

    Keypoints are pixel positions, boxes and polygons have their origin at the corner of the first pixel, as the format
    says. Every keypoint with visibility 1 or 2 is a point with the name of its category.

    Raises
    ------
    ReadError
        Names the file, the annotation and what is wrong with it.
    """
    try:
        images = {image["id"]: _empty(path, image) for image in data["images"]}
        names = {category["id"]: str(category["name"]) for category in data.get("categories", [])}
    except (KeyError, TypeError, ValueError) as error:
        raise ReadError(
            f"{path}: an entry of 'images' or 'categories' is incomplete ({error!r}); images need id and file_name, "
            "categories id and name"
        ) from error
    hidden, others = Counter[Any](), Counter[Any]()
    for number, annotation in enumerate(data["annotations"], start=1):
        where = f"{path}: annotation {annotation.get('id', number) if isinstance(annotation, dict) else number}"
        try:
            image = annotation["image_id"]
            if image not in images:
                raise ReadError(f"{where}: is of the image {image}, which is not in 'images'; export it again")
            category = annotation.get("category_id")
            name = names.get(category, "" if category is None else str(category))
            read, unseen = _add(images[image], annotation, name)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ReadError(f"{where}: is incomplete or of another form ({error!r}); export it again") from error
        hidden[image] += unseen
        others[image] += not read
    for image, n in hidden.items():
        if n:
            images[image].notes.append(f"{n} keypoints without a position (visibility 0) were left out")
    for image, n in others.items():
        if n:
            images[image].notes.append(f"{n} annotations without keypoints, box or polygon are not read")
    return list(images.values()), []


def _empty(path: Path, image: dict[str, Any]) -> Marks:
    shape = (int(image["height"]), int(image["width"])) if image.get("height") and image.get("width") else None
    return Marks(path, Path(str(image["file_name"]).replace("\\", "/")).stem, shape)


def _add(marks: Marks, annotation: dict[str, Any], name: str) -> tuple[bool, int]:
    """Whether something was read of an annotation, and how many of its keypoints have no position."""
    score = annotation.get("score")
    confidence = None if score is None else float(score)
    points = annotation.get("points") or ([annotation["point"]] if annotation.get("point") else [])
    triples = [(x, y, 2.0) for x, y in points] or _triples(annotation.get("keypoints") or [])
    seen = [(x, y) for x, y, visibility in triples if visibility]
    marks.points += [(float(y), float(x), name, confidence) for x, y in seen]
    segmentation = annotation.get("segmentation")
    outlines = [s for s in segmentation if len(s) >= 6] if isinstance(segmentation, list) else []
    if triples:
        return True, len(triples) - len(seen)
    if outlines:
        longest = max(outlines, key=len)
        marks.polygons.append((np.array(longest, np.float64).reshape(-1, 2)[:, ::-1] - 0.5, name))
        return True, 0
    if annotation.get("bbox"):
        x, y, w, h = map(float, annotation["bbox"])
        marks.boxes.append((y - 0.5, x - 0.5, y + h - 0.5, x + w - 0.5, name))
        return True, 0
    return False, 0


def _triples(flat: list[float]) -> list[tuple[float, float, float]]:
    if len(flat) % 3:
        raise ValueError(f"{len(flat)} numbers are no list of x, y, visibility")
    return [(x, y, visibility) for x, y, visibility in zip(flat[::3], flat[1::3], flat[2::3], strict=True)]
