"""Served models as files: `ANALYTICS_HOME/models/ID.skops`, each with a data card `ID.json` beside it.

A file is read with a fixed list of trusted types and nothing else, and is taken for the model only if what it has learned gives
the name that it bears and its bytes are those whose SHA-256 the card tells: a damaged or changed file or one of another model is
refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from analytics_assets.saas.churn.models import Model, Pair

# What skops does not trust by itself of the two scikit-learn models. Never take this list from the file that is to be read.
TRUSTED = ["numpy.dtype", "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"]


class ModelFileError(Exception):
    """A stored model is missing, damaged or foreign, or cannot be written; the message names the file and says what to do."""


def store(folder: Path, model: Model, card: Mapping[str, Any]) -> Path:
    """Write a model and its card under its id, once: equal ids are equal models. Each file appears whole or not at all.

    Raises:
        ModelFileError: a folder lies where a file is to be.
    """
    import skops.io  # type: ignore[import-untyped]

    path = folder / f"{model.model_id}.skops"
    folder.mkdir(parents=True, exist_ok=True)
    if not _is_good(folder, model.model_id):
        _put(path, skops.io.dumps(_parts(model)))
    told = {**card, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    _put(folder / f"{model.model_id}.json", (json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode())
    return path


def load(folder: Path, model_id: str) -> Model:
    """Read a model.

    Raises:
        ModelFileError: it is missing, cannot be read, has types that are not trusted, or is another model.
    """
    import skops.io

    path = reading = folder / f"{model_id}.skops"
    remedy = "The model is made again from the data, and the file and its card are replaced."
    try:
        content = path.read_bytes()
        model = _model(skops.io.loads(content, trusted=TRUSTED))
        found = model.model_id
        reading = path.with_suffix(".json")
        told = json.loads(reading.read_text(encoding="utf-8"))["sha256"]
    except FileNotFoundError:
        raise ModelFileError(f"{reading}: there is no such file. {remedy}") from None
    except Exception as error:
        raise ModelFileError(f"{reading}: damaged or foreign ({type(error).__name__}: {error}). {remedy}") from None
    if found != model_id:
        raise ModelFileError(f"{path}: holds the model {found}. {remedy}")
    if hashlib.sha256(content).hexdigest() != told:
        raise ModelFileError(f"{path}: is not the file that its card tells of. {remedy}")
    return model


def _is_good(folder: Path, model_id: str) -> bool:
    try:
        load(folder, model_id)
    except ModelFileError:
        return False
    return True


def _put(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except IsADirectoryError:
        raise ModelFileError(
            f"{path}: a folder lies where the model is to be written. Move it away, and materialise again."
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def _parts(model: Model) -> dict[str, Any]:
    return {
        "candidate": model.candidate,
        "logistic": model.pair.logistic,
        "boosted": model.pair.boosted,
        "inputs": list(model.inputs),
        "base_rate": model.base_rate,
        "training_digest": model.training_digest,
        "edges": list(model.edges),
        "shares": list(model.shares),
        "unrest": list(model.unrest),
    }


def _model(parts: Mapping[str, Any]) -> Model:
    return Model(
        candidate=parts["candidate"],
        pair=Pair(parts["logistic"], parts["boosted"]),
        inputs=tuple(parts["inputs"]),
        base_rate=parts["base_rate"],
        training_digest=parts["training_digest"],
        edges=tuple(np.asarray(values) for values in parts["edges"]),
        shares=tuple(np.asarray(values) for values in parts["shares"]),
        unrest=tuple(parts["unrest"]),
    )
