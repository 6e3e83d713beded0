"""The page at ``/``: what serves and how it fares, at one look, and a form to ask it.

Plain HTML: no script, nothing from elsewhere. Its style is held by its digest, so that nothing that a model or a
client names can bring another.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from pipelines.adapters.registry import ALIAS_CHALLENGER, ALIAS_PRODUCTION
from serving.dataplane import Readiness
from serving.follower import PointerStatus
from serving.recent import EVERY_SECONDS, KEPT, Course, Recent, Switch
from serving.sparkline import sparkline
from serving.versions import LoadedVersion

_STYLE = files("serving").joinpath("page.css").read_text("utf-8")
_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
#: For whoever sends the page.
HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_DIGEST}'; img-src data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
_SHOWN_SHARES = 12
_BAR = 200  # width of the whole drawing of a share


@dataclass(frozen=True)
class Places:
    """Pages that this one leads to.

    Attributes:
        version: Address of a version's page in MLflow, by model and version.
        evidently: Empty: there is none.
    """

    version: Callable[[str, str], str]
    mlflow: str
    airflow: str
    evidently: str


@dataclass(frozen=True)
class Tried:
    """What somebody asked by the form, and what came.

    Attributes:
        given: The fields of the form, as they were filled in.
        answer: Of ``/models/{model}/predict`` with its explanation; None where it was refused.
        refusal: Why; empty where it was answered.
    """

    model: str
    given: Mapping[str, str]
    answer: Mapping[str, Any] | None
    refusal: str = ""


def overview(
    readiness: Readiness,
    live: Mapping[str, Mapping[str, LoadedVersion]],
    recent: Recent,
    places: Places,
    tried: Tried | None = None,
) -> str:
    """The page as HTML.

    Args:
        live: Alias to version, by model.
    """
    names = sorted({*live, *readiness.models})
    state = (
        '<span class="state good">ready</span> <span class="dim">each model answers its own sample</span>'
        if readiness.ready
        else '<span class="state bad">not ready</span>'
    )
    problems = "".join(f'<li class="bad">{escape(text)}</li>' for text in readiness.reasons)
    problems += "".join(f'<li class="warn">{escape(text)}</li>' for text in readiness.warnings)
    models = "".join(
        _model(name, live.get(name, {}), readiness.models.get(name, {}), recent.course(name), places, tried)
        for name in names
    )
    evidently = f'<a href="{escape(places.evidently)}">Drift reports</a>' if places.evidently else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Headrace: what serves</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{_STYLE}</style></head><body><header><h1>Headrace</h1><div>{state}</div><nav>"
        '<a href="/">Look again</a><a href="/docs">API</a><a href="/v2/health/ready">Readiness</a>'
        f'<a href="/metrics">Metrics</a><a href="{escape(places.mlflow)}">MLflow</a>'
        f'<a href="{escape(places.airflow)}">Airflow</a>{evidently}</nav></header><main>'
        f"{f'<section><ul>{problems}</ul></section>' if problems else ''}"
        f'{models or _NOTHING}{_moves(recent.switches(), places)}</main><footer class="dim">'
        f"Lines show the last {EVERY_SECONDS * KEPT / 60:g} minutes of this server, all its processes together. "
        "Whoever moves the alias <code>production</code> in MLflow decides what answers.</footer></body></html>"
    )


_NOTHING = (
    "<section><h2>No version is loaded</h2><p>Nothing is in production yet: trigger <code>train_&lt;model&gt;</code> in "
    "Airflow, or move the alias <code>production</code> in MLflow.</p></section>"
)


def _model(
    name: str,
    versions: Mapping[str, LoadedVersion],
    pointers: Mapping[str, PointerStatus],
    course: Course,
    places: Places,
    tried: Tried | None,
) -> str:
    mine = tried if tried is not None and tried.model == name else None
    rows = "".join(
        _row(name, alias, versions.get(alias), pointers, places)
        for alias in (ALIAS_PRODUCTION, ALIAS_CHALLENGER)
        if alias in versions or alias in pointers
    )
    production = versions.get(ALIAS_PRODUCTION)
    title = f"<small>version {escape(production.version)} answers</small>" if production else ""
    return (
        f'<section id="model-{escape(name)}"><h2>{escape(name)} {title}</h2>{_sparks(course)}'
        '<div class="scroll"><table><thead><tr><th>Alias</th><th>Answers</th><th>Requests</th><th>State</th>'
        f"<th>Manifest</th></tr></thead><tbody>{rows}</tbody></table></div>"
        f"{_answered(mine, places) if mine else ''}{_form(name, production, mine) if production else ''}</section>"
    )


def _row(
    name: str,
    alias: str,
    version: LoadedVersion | None,
    pointers: Mapping[str, PointerStatus],
    places: Places,
) -> str:
    status = pointers.get(alias)
    if version is None:
        number, digest = '<span class="bad">nothing</span>', ""
    else:
        page = escape(places.version(name, version.version))
        number = f'<a href="{page}">version {escape(version.version)}</a>'
        digest = f"<code>{escape(version.manifest_sha256[:12])}</code>"
    return (
        f"<tr><td>{escape(alias)}</td><td>{number}</td><td>{escape(_traffic(alias, pointers))}</td>"
        f"<td>{_state(status)}</td><td>{digest}</td></tr>"
    )


def _traffic(alias: str, pointers: Mapping[str, PointerStatus]) -> str:
    """What an alias gets of the requests that name no version."""
    challenger = pointers.get(ALIAS_CHALLENGER)
    given = challenger.traffic if challenger is not None else ""
    if alias == ALIAS_CHALLENGER:
        return {"": "none", "shadow": "mirrored: its answers are compared, not told"}.get(given, f"{given} %")
    return f"{100 - float(given):g} %" if given not in {"", "shadow"} else "100 %"


def _state(status: PointerStatus | None) -> str:
    if status is None:
        return ""
    if status.failure:
        return (
            f'<span class="bad">version {escape(status.wanted or "")} is refused ({status.failures} times): '
            f"{escape(status.failure)}</span>"
        )
    if status.problem:
        return f'<span class="warn">{escape(status.problem)}</span>'
    if status.wanted != status.serving:
        return f'<span class="warn">loading version {escape(status.wanted or "")}</span>'
    return '<span class="good">as the registry names it</span>'


def _sparks(course: Course) -> str:
    errors = [failed + refused for failed, refused in zip(course.failed, course.refused, strict=True)]
    newest = next((value for value in reversed(course.seconds) if value is not None), None)
    latency = "none" if newest is None else f"{newest * 1000:.2g} ms" if newest < 0.1 else f"{newest:.2g} s"
    return (
        '<div class="sparks">'
        + sparkline(course.requests, "Requests", f"{_last(course.requests):.3g} /s")
        + sparkline(course.seconds, "Latency, 95 %", latency)
        + sparkline(
            errors, "Refused, failed", f"{_last(course.refused):.3g}, {_last(course.failed):.3g} /s", "errors"
        )
        + "</div>"
    )


def _last(values: Sequence[float]) -> float:
    return values[-1] if values else 0.0


def _moves(switches: Sequence[Switch], places: Places) -> str:
    if not switches:
        return ""
    rows = "".join(
        f"<tr><td>{switch.at:%Y-%m-%d %H:%M:%S}</td><td>{escape(switch.model)}</td><td>{escape(switch.alias)}</td>"
        f'<td><a href="{escape(places.version(switch.model, switch.version))}">version {escape(switch.version)}</a></td>'
        f"<td>{switch.seconds:.2f} s</td></tr>"
        for switch in switches
    )
    return (
        "<section><h2>Last moves <small>seen by this process since its start; who and why: "
        '<code>headrace history MODEL</code></small></h2><div class="scroll"><table><thead><tr><th>When (UTC)</th>'
        "<th>Model</th><th>Alias</th><th>Answers since</th><th>After</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _form(name: str, version: LoadedVersion, tried: Tried | None) -> str:
    """Two ways to ask: by an entity whose features the server looks up, or with all inputs."""
    given = tried.given if tried else {}
    sample = json.dumps(version.export.sample.rows[0], indent=1)
    action = f"/models/{quote(name, safe='')}/try#model-{quote(name, safe='')}"
    by_record = "records" in given
    return (
        f"<details{' open' if tried else ''}><summary>Try a prediction of {escape(name)}</summary>"
        f'<form method="post" action="{action}"><div class="fields"><label>Entity <input name="entity" required '
        f'autocomplete="off" spellcheck="false" value="{escape(given.get("entity", ""))}"></label>'
        '<label>At (UTC; empty: now) <input name="at" placeholder="2026-01-31T12:00:00Z" autocomplete="off" '
        f'value="{escape(given.get("at", ""))}"></label></div><button>Predict for the entity</button></form>'
        f"<details{' open' if by_record else ''}><summary>With inputs of your own</summary>"
        f'<form method="post" action="{action}"><label>One JSON object, a value per input; these are from the model\'s '
        f'own sample <textarea name="records" spellcheck="false">{escape(given.get("records", sample))}</textarea></label>'
        "<button>Predict from the inputs</button></form></details></details>"
    )


def _answered(tried: Tried, places: Places) -> str:
    if tried.answer is None:
        return f'<h3>Answer</h3><p class="bad" role="alert">{escape(tried.refusal)}</p>'
    version = str(tried.answer["version"])
    (row, *_) = tried.answer["predictions"]
    outputs = "".join(
        f'<tr><td>{escape(name)}</td><td class="value">{escape(_told(value))}</td></tr>'
        for name, value in row.items()
        if name not in {"prediction_id", "explanation"}
    )
    explained = "".join(_shares(name, told) for name, told in row.get("explanation", {}).items())
    silent = "".join(
        f'<p class="dim">{escape(name)}: {escape(why)}</p>'
        for name, why in (tried.answer.get("unexplained") or {}).items()
    )
    identity = escape(str(row["prediction_id"]))
    return (
        f'<h3 id="answer">Answer of <a href="{escape(places.version(tried.model, version))}">version {escape(version)}</a>'
        f'</h3><div class="scroll"><table class="answer-of"><tbody>{outputs}</tbody></table></div>{explained}{silent}'
        f'<p class="dim">What it came from: <code>headrace trace {identity}</code></p>'
    )


def _shares(estimator: str, told: Mapping[str, Any]) -> str:
    """What each input adds, the largest first, as bars to either side of nothing."""
    shares = sorted(told["contributions"].items(), key=lambda item: -abs(item[1]))
    top = abs(shares[0][1]) or 1.0 if shares else 1.0
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{_bar(value / top)}</td><td>{value:+.3g}</td></tr>"
        for name, value in shares[:_SHOWN_SHARES]
    )
    rest = sum(value for _, value in shares[_SHOWN_SHARES:])
    more = f"{len(shares) - _SHOWN_SHARES} others add {rest:+.3g}. " if len(shares) > _SHOWN_SHARES else ""
    return (
        f'<h3>Why: what each input adds to <code>{escape(estimator)}</code></h3><div class="scroll"><table class="shares">'
        f'<tbody>{rows}</tbody></table></div><p class="dim">{more}From {told["base"]:.3g} to {told["raw"]:.3g}, '
        "in the estimator's raw units.</p>"
    )


def _bar(share: float) -> str:
    middle, length = _BAR / 2, abs(share) * _BAR / 2
    left = middle if share >= 0 else middle - length
    return (
        f'<svg viewBox="0 0 {_BAR} 12" preserveAspectRatio="none" aria-hidden="true"><rect x="{left:.1f}" y="1" '
        f'width="{length:.1f}" height="10" class="{"up" if share >= 0 else "down"}"/>'
        f'<line x1="{middle}" x2="{middle}" y1="0" y2="12"/></svg>'
    )


def _told(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value)
