"""The classical regressors by name, and how they are stored: with skops, which runs no code.

A stored model is read only if every type in it is one of those that these models are made of.
"""

import io
import json
import zipfile
from typing import Any

import numpy as np

from scalespec.models.baselines import (
    Baseline,
    GradientBoosting,
    NearestNeighbors,
    RandomForest,
    Ridge,
    SupportVector,
)
from scalespec.models.elm import ExtremeLearning
from scalespec.models.gaussian_process import GaussianProcess
from scalespec.models.regressor import RegressorSpec

BASELINES: tuple[type[Baseline], ...] = (
    Ridge,
    NearestNeighbors,
    GradientBoosting,
    SupportVector,
    RandomForest,
    GaussianProcess,
    ExtremeLearning,
)
TRUSTED = frozenset(
    {
        "sklearn._loss.link.IdentityLink",
        "sklearn._loss.link.Interval",
        "sklearn._loss.loss.HalfSquaredError",
        "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn._loss._loss.CyHalfSquaredError",
        "sklearn.metrics._dist_metrics.EuclideanDistance64",
        "sklearn.neighbors._kd_tree.KDTree",
        "sklearn.tree._tree.Tree",
    }
)
"""Types that skops does not know to be harmless by itself, and that these models hold."""


def dump_baseline(model: Baseline) -> bytes:
    """Return a model that has learned, as bytes.

    Raises
    ------
    ValueError
        If it has not learned.
    """
    import skops.io  # type: ignore[import-untyped]

    facts = {"name": model.name, "spec": model.spec.to_dict(), "options": model.options}
    state = skops.io.dumps({"facts": json.dumps(facts), "state": model.state()})
    return bytes(state)


def load_baseline(data: bytes) -> Baseline:
    """Return the model that `dump_baseline` stored.

    Raises
    ------
    ValueError
        If the bytes are no such model, or hold a type that none of ours has.
    """
    import skops.io

    try:
        strange = set(skops.io.get_untrusted_types(data=data)) - TRUSTED
        if strange:
            raise ValueError(f"a stored model with types that none of ours has: {sorted(strange)}")
        stored: dict[str, Any] = skops.io.loads(data, trusted=sorted(TRUSTED))
        facts = json.loads(stored["facts"])
        state = stored["state"]
    except (zipfile.BadZipFile, KeyError, TypeError, io.UnsupportedOperation) as error:
        raise ValueError(f"no stored model of ours: {error}") from error
    kinds = {kind.name: kind for kind in BASELINES}
    if facts.get("name") not in kinds:
        raise ValueError(f"no model '{facts.get('name')}'; there are {sorted(kinds)}")
    model = kinds[facts["name"]](RegressorSpec.from_dict(facts["spec"]), **facts["options"])
    _check_trees(state["models"], _n_feature(state))
    model.restore(state)
    return model


def _n_feature(state: dict[str, Any]) -> int:
    features = state["features"]
    seen = features["components"] if len(features["components"]) else features["flux_mean"]
    return len(seen) + len(features["extra_mean"])


def _check_trees(models: list[Any], n_feature: int) -> None:
    """Refuse trees that point outside themselves: compiled code would follow them anywhere.

    Raises
    ------
    ValueError
        If one does.
    """
    for model in models:
        for tree in (one.tree_ for one in getattr(model, "estimators_", ())):
            leaf = tree.children_left < 0
            inside = np.stack([tree.children_left, tree.children_right])[:, ~leaf]
            _check_nodes(inside, tree.feature[~leaf], tree.node_count, n_feature)
        for stage in getattr(model, "_predictors", ()):
            for predictor in stage:
                nodes = predictor.nodes[predictor.nodes["is_leaf"] == 0]
                inside = np.stack([nodes["left"], nodes["right"]])
                _check_nodes(inside, nodes["feature_idx"], len(predictor.nodes), n_feature)


def _check_nodes(children: Any, feature: Any, n_node: int, n_feature: int) -> None:
    wrong = np.any((children < 1) | (children >= n_node))
    if wrong or np.any((feature < 0) | (feature >= n_feature)):
        raise ValueError("a stored tree points outside itself: the file is damaged")
