"""How a prompt's place was chosen, as values for the API."""

from collections.abc import Iterable

from node.api.ports import RouteCandidate, RouteReport
from node.serving.forwarder import Plan
from node.serving.model_group import ModelGroup
from overlay.routing.forwarding import Commit, Estimate


def report_route(group: ModelGroup, plan: Plan) -> RouteReport:
    """What `clove route explain` shows."""
    choice = plan.choice
    return RouteReport(
        model=group.card.alias,
        tokens=plan.measured.tokens,
        blocks=len(plan.measured.chain),
        candidates=_candidates(group, plan.estimates),
        probed=_candidates(group, plan.probed),
        chosen=choice.estimate.member.hex() if isinstance(choice, Commit) else None,
        reason=choice.reason.value if isinstance(choice, Commit) else "refused",
    )


def _candidates(group: ModelGroup, estimates: Iterable[Estimate]) -> tuple[RouteCandidate, ...]:
    return tuple(
        RouteCandidate(
            node=each.member.hex(),
            is_here=each.member == group.node_id,
            cached_tokens=each.cached_tokens,
            ahead_s=each.wait.ahead_s,
            slot_s=each.wait.slot_s,
            reading_s=each.wait.reading_s,
            late_s=each.wait.late_s,
            total_s=each.wait.total_s,
            compared_s=each.cost_s,
            age_s=each.age_s,
        )
        for each in estimates
    )
