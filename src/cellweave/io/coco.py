"""COCO JSON: keypoints, boxes and polygons (https://cocodataset.org/#format-data); also plain points."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from cellweave.core.errors import ReadError
from cellweave.io.marks import Marks, picture_name, size_of

NAME = "COCO"


def recognises(data: Any) -> bool:
    """Whether parsed JSON has the lists of COCO."""
    return isinstance(data, dict) and isinstance(data.get("images"), list) and "annotations" in data


def find(path: Path, data: Any) -> tuple[list[Marks], list[str]]:
    """The marks of every image.

    Keypoints are pixel positions, boxes and polygons have their origin at the corner of the first pixel, as the format
    says. Every keypoint with visibility 1 or 2 is a point; its class is the name of the category or, where that has
    several keypoints, the name of the keypoint.

    Raises
    ------
    ReadError
        Names the file, the annotation and what is wrong with it.
    """
    try:
        uploaded = dict(data.get("info") or {}).get("contributor") == "Label Studio"
        images = {image["id"]: _empty(path, image, uploaded) for image in data["images"]}
        categories = {category["id"]: category for category in data.get("categories", [])}
        names = {key: [str(c["name"]), *map(str, c.get("keypoints") or [])] for key, c in categories.items()}
    except (KeyError, OverflowError, TypeError, ValueError) as error:
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
            read, unseen = _add(
                images[image], annotation, names.get(category, ["" if category is None else str(category)])
            )
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


def _empty(path: Path, image: dict[str, Any], uploaded: bool) -> Marks:
    shape = size_of(image["height"], image["width"]) if image.get("height") and image.get("width") else None
    return Marks(path, picture_name(str(image["file_name"]), uploaded=uploaded), shape)


def _add(marks: Marks, annotation: dict[str, Any], names: list[str]) -> tuple[bool, int]:
    """Whether something was read of an annotation, and how many of its keypoints have no position.

    `names` are those of the category and of its keypoints.
    """
    name, *parts = names
    score = annotation.get("score")
    confidence = None if score is None else float(score)
    points = annotation.get("points") or ([annotation["point"]] if annotation.get("point") else [])
    triples = [(x, y, 2.0) for x, y in points] or _triples(annotation.get("keypoints") or [])
    classes = parts if len(parts) == len(triples) > 1 else [name] * len(triples)
    seen = [(float(y), float(x), kind, confidence) for (x, y, v), kind in zip(triples, classes, strict=True) if v]
    marks.points += seen
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
