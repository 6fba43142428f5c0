"""Puts the gateway together from the settings."""

from __future__ import annotations

from vllm_engine import __version__
from vllm_engine.config.settings import Settings
from vllm_engine.engine.activity import EngineActivity
from vllm_engine.engine.engine_control import EngineControl
from vllm_engine.engine.engine_state import StatusReader
from vllm_engine.engine.idle import ClientDemand
from vllm_engine.engine.startup.engine_folders import EngineFolders
from vllm_engine.gateway.app import Gateway
from vllm_engine.gateway.body.body_budget import BodyBudget
from vllm_engine.gateway.body.request_body import Bodies
from vllm_engine.gateway.local.local_routes import Sources, local_routes
from vllm_engine.gateway.local.metric_history import Recorder
from vllm_engine.gateway.local.operator_report import Load, Machine, Reporter
from vllm_engine.gateway.local.probes import Build
from vllm_engine.gateway.observe.engine_metrics.engine_text import EngineMetrics
from vllm_engine.gateway.observe.gateway_metrics import GatewayMetrics
from vllm_engine.gateway.observe.observation import Observation
from vllm_engine.gateway.observe.tracing import make_tracer
from vllm_engine.gateway.policy.admission import Admission
from vllm_engine.gateway.policy.admission_limits import Limits
from vllm_engine.gateway.policy.auth import Keyring
from vllm_engine.gateway.policy.cors import Cors
from vllm_engine.gateway.policy.readiness import HealthRules
from vllm_engine.gateway.policy.routes import RouteTable
from vllm_engine.gateway.proxy.attempt import Engine
from vllm_engine.gateway.proxy.engine_frontends import Frontends
from vllm_engine.gateway.proxy.engine_proxy import Proxy
from vllm_engine.gateway.proxy.failover import Recovery
from vllm_engine.gateway.settings_check import load_keyring, load_routes

_BODIES_AT_ONCE = 16
"""How many bodies of the largest size may be held in memory together."""
_MIN_BODY_BYTES = 256 << 20
"""The least memory for all bodies together, where `MAX_BODY_BYTES` is small."""
_READING_AT_ONCE = 1024
"""How many bodies may be incomplete. One that comes in one piece with its head, as most do, does not
count."""


_UNKNOWN_MACHINE = Machine()


def build_gateway(
    settings: Settings,
    status: StatusReader,
    build: Build,
    folders: EngineFolders,
    activity: EngineActivity,
    demand: ClientDemand,
    control: EngineControl,
    machine: Machine = _UNKNOWN_MACHINE,
    has_scale_out: bool = False,
) -> Gateway:
    """Return the gateway to the engine in `folders`; it keeps `activity` and `demand` up to date.

    Raises:
        SettingsError: the keys or the extra routes cannot be used, or tracing lacks its packages.
    """
    keyring = load_keyring(settings)
    routes = load_routes(settings)
    bodies = _bodies(settings)
    admission = Admission(Limits(**{name: getattr(settings, name) for name in Limits._fields}))
    recovery = _recovery(settings, status)
    frontends = Frontends(folders.socket, folders.rust_socket, status)
    engine = Engine(frontends, status, recovery, activity, control)
    proxy = Proxy(engine, keep_alive_seconds=settings.keep_alive_seconds)

    def waiting() -> int:
        return admission.waiting + recovery.waiting

    load = Load(lambda: admission.in_flight, waiting)
    metrics = _metrics(routes, keyring, build, status)
    metrics.watch(
        in_flight=load.in_flight,
        waiting=waiting,
        bodies_incomplete=lambda: bodies.budget.reading,
        body_bytes=lambda: bodies.budget.held_bytes,
        log_lines_dropped=machine.log_lines_dropped,
        tls_certificate_expiry_timestamp_seconds=machine.certificate_expiry,
    )
    observation = Observation(settings, metrics, EngineMetrics(control.metrics, activity).text)
    recorder = Recorder(status, observation.engine_metrics, waiting, activity.own)
    reporter = Reporter(settings, status, observation, machine, load)
    sources = Sources(status, observation, recorder, reporter, control.description, load)
    local = local_routes(settings, build, sources, keyring, routes, on_start=proxy.start, on_stop=proxy.stop)
    return Gateway(
        status=status,
        local=local,
        keyring=keyring,
        routes=routes,
        bodies=bodies,
        admission=admission,
        proxy=proxy,
        cors=Cors(settings.cors_origins),
        tracer=make_tracer(settings.traces_url, __version__),
        recovery=recovery,
        demand=demand,
        health_rules=HealthRules.of(settings),
        finished=observation.finished,
        has_scale_out=has_scale_out,
    )


def _metrics(routes: RouteTable, keyring: Keyring, build: Build, status: StatusReader) -> GatewayMetrics:
    labels = {"version": __version__, "sha": build.build_sha, "vllm": build.vllm, "model": build.model}
    metrics = GatewayMetrics(routes.templates, keyring, labels)
    metrics.follow(status)
    return metrics


def _recovery(settings: Settings, status: StatusReader) -> Recovery:
    return Recovery(
        status,
        timeout_seconds=settings.replay_timeout_seconds,
        max_waiting=settings.max_in_flight + settings.max_queue,
    )


def _bodies(settings: Settings) -> Bodies:
    return Bodies(
        max_bytes=settings.max_body_bytes,
        idle_timeout_seconds=settings.body_idle_timeout_seconds,
        budget=BodyBudget(
            max_bytes=max(_BODIES_AT_ONCE * settings.max_body_bytes, _MIN_BODY_BYTES),
            max_reading=_READING_AT_ONCE,
        ),
    )
