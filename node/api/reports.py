"""The reading endpoints: health, metrics, version, and the node's own reports under `/api/v1`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from node.api.openai_replies import model_entry, model_list
from node.api.ports import Service
from node.api.problem import Problem
from node.metrics import CONTENT_TYPE, Metrics
from node.version import NAME, version


@dataclass(frozen=True, slots=True)
class Reports:
    """What can be read of a node, and the one thing that ends it."""

    service: Service
    metrics: Metrics

    async def livez(self, _request: Request) -> Response:
        """The process answers."""
        return JSONResponse({"live": True})

    async def readyz(self, _request: Request) -> Response:
        """200 when prompts can be answered now, else 503 and the reasons."""
        readiness = self.service.ready()
        return JSONResponse(asdict(readiness), 200 if readiness.ready else 503)

    async def metrics_page(self, _request: Request) -> Response:
        """Prometheus' exposition."""
        return Response(self.metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def version_page(self, _request: Request) -> Response:
        """What runs."""
        return JSONResponse({"name": NAME, "version": version()})

    async def openai_models(self, _request: Request) -> Response:
        """`GET /v1/models`."""
        return JSONResponse(model_list(self.service.models()))

    async def openai_model(self, request: Request) -> Response:
        """`GET /v1/models/{model}`."""
        wanted = request.path_params["model"]
        for model in self.service.models():
            if wanted in (model.alias, model.model_id):
                return JSONResponse(model_entry(model))
        raise Problem(404, "model_not_found", f"no node serves the model {wanted!r}", param="model")

    async def status(self, _request: Request) -> Response:
        """The daemon about itself."""
        return JSONResponse(asdict(self.service.status()))

    async def peers(self, _request: Request) -> Response:
        """Nodes of the directory."""
        return _listed("peers", self.service.peers())

    async def models(self, _request: Request) -> Response:
        """Models of the network."""
        return _listed("models", self.service.models())

    async def circuits(self, _request: Request) -> Response:
        """Circuits of this client; admin only."""
        return _listed("circuits", self.service.circuits())

    async def answer(self, request: Request) -> Response:
        """A kept answer with its receipt and account; admin only."""
        wanted = request.path_params["answer_id"]
        kept = self.service.answer(wanted)
        if kept is None:
            raise Problem(404, "answer_not_found", f"no answer {wanted!r} is kept here", param="answer_id")
        body = {
            "answer_id": kept.answer_id,
            "created_unix": kept.created_unix,
            "record": json.loads(kept.record),
            "account": asdict(kept.account),
        }
        return JSONResponse(body)

    async def shutdown(self, _request: Request) -> Response:
        """Begin to drain and end; admin only."""
        # Only once the reply is out: the end of the daemon would cut it off.
        return JSONResponse({"shutting_down": True}, 202, background=BackgroundTask(self.service.shutdown))


def _listed(name: str, items: Sequence[Any]) -> Response:
    return JSONResponse({name: [asdict(item) for item in items]})
