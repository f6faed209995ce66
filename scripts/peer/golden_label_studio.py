"""Write tests/golden/label_studio.json: exports and brushes made by label-studio-converter 0.0.59.

Run with the interpreter of an environment that holds ``label-studio-converter==0.0.59`` and nothing else of ours::

    python scripts/peer/golden_label_studio.py

The tasks are typed by hand here, in the form of Label Studio's JSON; the converter makes JSON-MIN and COCO of them. The
brushes are packed by the converter's encoder; the masks are those of tests/io/test_points_label_studio.py. Keys:

===========  =========================================================
``tasks``    the tasks
``minimal``  the same as JSON-MIN
``coco``     the same as COCO (the converter leaves the points out)
``brushes``  name of a mask -> the bytes of the brush, in base64
===========  =========================================================
"""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path

import numpy as np
from label_studio_converter import Converter
from label_studio_converter.brush import encode_rle, mask2rle

CONFIG = """
<View><Image name="img" value="$img"/>
<RectangleLabels name="box" toName="img"><Label value="Live cell"/><Label value="Dead cell"/></RectangleLabels>
<PolygonLabels name="poly" toName="img"><Label value="Live cell"/><Label value="Background"/></PolygonLabels>
<KeyPointLabels name="kp" toName="img"><Label value="Live Cell"/></KeyPointLabels></View>
"""
HEIGHT, WIDTH = 120, 160
OUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "label_studio.json"


def masks() -> dict[str, np.ndarray]:
    """As in the test."""
    rows, columns = np.mgrid[:150, :170]
    return {
        "empty": np.zeros((150, 170), bool),
        "full": np.ones((150, 170), bool),
        "disk": (rows - 70) ** 2 + (columns - 90) ** 2 < 40**2,
        "stripes": rows % 7 < 3,
        "checks": ((rows + columns) % 2 == 0)[:31, :17],
        "small disk": (rows[:40, :50] - 20) ** 2 + (columns[:40, :50] - 25) ** 2 < 12**2,
        "corner": (rows < 1)[:9, :8] & (columns < 1)[:9, :8],
    }


def region(kind: str, value: dict, *, name: str, number: int) -> dict:
    """One result of an annotation."""
    tag = {"rectangle": "box", "polygon": "poly", "keypoint": "kp"}[kind]
    return {
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "value": {**value, f"{kind}labels": [name]},
        "id": f"region{number}",
        "from_name": tag,
        "to_name": "img",
        "type": f"{kind}labels",
        "origin": "manual",
    }


def tasks() -> list[dict]:
    """One image with boxes and polygons, one with points."""
    boxes = [
        region("rectangle", {"x": 10, "y": 20, "width": 5, "height": 10, "rotation": 0}, name="Live cell", number=1),
        region("rectangle", {"x": 70, "y": 30, "width": 12.5, "height": 5, "rotation": 0}, name="Dead cell", number=2),
        region("polygon", {"points": [[50, 50], [60, 50], [60, 70], [50, 70]]}, name="Live cell", number=3),
    ]
    points = [
        region("keypoint", {"x": 12.5, "y": 37.5, "width": 0.5}, name="Live Cell", number=4),
        region("keypoint", {"x": 99.0, "y": 1.0, "width": 0.5}, name="Live Cell", number=5),
    ]
    found = []
    for number, (image, results) in enumerate(
        [("0a1b2c3d-boxes.png", boxes), ("ffff0000-points.png", points)], start=1
    ):
        found.append(
            {
                "id": number,
                "data": {"img": f"/data/upload/1/{image}"},
                "annotations": [{"id": number, "completed_by": 1, "was_cancelled": False, "result": results}],
                "created_at": "2024-01-01T00:00:00Z",
                "updated_at": "2024-01-01T00:00:00Z",
            }
        )
    return found


def convert(kind: str) -> object:
    """What the converter makes of the tasks."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "tasks.json", Path(folder) / "out"
        source.write_text(json.dumps(tasks()))
        converter = Converter(CONFIG, project_dir=folder, download_resources=False)
        converter.convert(str(source), str(out), kind, is_dir=False)
        made = next(path for path in sorted(out.rglob("*.json")))
        return json.loads(made.read_text())


def packed(words: list[int]) -> str:
    """Bytes as text."""
    return base64.b64encode(bytes(words)).decode()


def main() -> None:
    brushes = {name: packed(mask2rle(mask.astype(np.uint8) * 255)) for name, mask in masks().items()}
    disk = masks()["small disk"]
    colours = np.zeros((*disk.shape, 4), np.uint8)
    colours[disk] = 255, 163, 158, 128  # as the brush of the front end paints
    colours[:3] = 7, 8, 9, 0  # colour without opacity is not painted
    brushes["coloured disk"] = packed(encode_rle(colours.ravel()))
    golden = {"tasks": tasks(), "minimal": convert("JSON_MIN"), "coco": convert("COCO"), "brushes": brushes}
    OUT.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
