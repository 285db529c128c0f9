"""What JSON Schema cannot say: that a request fits a model.

A body that the document allows is made one of a model that is served, so that it must be accepted; everything else of it
stays as generated. A body that the document forbids is sent as it is.
"""

import os
import pathlib

import schemathesis
from hypothesis import strategies
from schemathesis.core.parameters import ParameterLocation

TENSOR = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0, 1.5, -2, 3e4]}
PHOTO_MODEL = "efficientnet-lite0-int8"
TEXT_MODEL = "minilm-l6-v2-int8"
TEXT_DIMENSIONS = 384
VOCABULARY = 30000

PHOTO = pathlib.Path(os.environ["MAST_PHOTO"]).read_bytes()

for media_type in ("image/jpeg", "image/png"):
    schemathesis.openapi.media_type(media_type, strategies.just(PHOTO))


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.meta is None or case.meta.is_negative_at(ParameterLocation.BODY):
        return
    if case.path.endswith("/infer"):
        if isinstance(case.body, dict):
            case.body = inference(case.body)
        elif case.media_type == "text/plain":
            case.path_parameters["model"] = TEXT_MODEL
        elif case.media_type in ("image/jpeg", "image/png"):
            case.path_parameters["model"] = PHOTO_MODEL
    elif case.path == "/v1/embeddings" and isinstance(case.body, dict):
        case.body = embeddings(case.body)


def inference(body):
    """With the tensor of `add`, which keeps no sequences."""
    fitted = {**body, "inputs": [TENSOR]}
    if "parameters" in body:
        fitted["parameters"] = {key: value for key, value in body["parameters"].items() if not key.startswith("sequence_")}
    if "outputs" in body:
        fitted["outputs"] = [{**output, "name": "y"} for output in body["outputs"][:1]]
    return fitted


def embeddings(body):
    """Of the model that makes them, with tokens that it has."""
    fitted = {**body, "model": TEXT_MODEL, "input": known(body["input"])}
    if "dimensions" in body:
        fitted["dimensions"] = TEXT_DIMENSIONS
    return fitted


def known(tokens):
    if isinstance(tokens, list):
        return [known(token) for token in tokens]
    return int(tokens) % VOCABULARY if isinstance(tokens, (int, float)) else tokens
