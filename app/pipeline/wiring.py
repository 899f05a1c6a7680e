"""How endpoints reach the pipeline."""

from typing import Annotated

from fastapi import Depends, Request

from app.pipeline.service import Pipeline


def _pipeline(request: Request) -> Pipeline:
    service = request.app.state.services.pipeline
    assert isinstance(service, Pipeline)  # noqa: S101  # Built once at startup.
    return service


PipelineService = Annotated[Pipeline, Depends(_pipeline)]
