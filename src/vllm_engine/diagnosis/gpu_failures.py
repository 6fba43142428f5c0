"""Known failures of the GPU, its driver, and several GPUs together.

Texts of torch (`c10/cuda`, `torch/csrc/cuda`, `ProcessGroupNCCL`), Triton, and vLLM (`platforms/cuda.py` and
`config/{parallel,model,vllm}.py`).
"""

from __future__ import annotations

from dataclasses import replace

from vllm_engine.diagnosis.known_failure import Advice, Groups, KnownFailure, Stage, setting
from vllm_engine.diagnosis.run_facts import Facts


def _driver(groups: Groups, _facts: Facts) -> Advice:
    found = groups.get("version", "")
    newest = f" (now for at most CUDA {int(found) // 1000}.{int(found) % 1000 // 10})" if found else ""
    return Advice(f"update the NVIDIA driver of the host{newest}, or use an image built for an older CUDA")


def _tensor_parallel(groups: Groups, facts: Facts) -> Advice:
    if not groups:
        return Advice("set TENSOR_PARALLEL to auto, or to a divisor of the attention heads, at most the GPUs")
    told = {name: int(groups[name]) for name in ("heads", "gpus") if name in groups}
    heads = told.get("heads", facts.attention_heads)
    legal = replace(facts, attention_heads=heads, gpus=told.get("gpus", facts.gpus)).legal_tensor_parallel
    listed = ", ".join(map(str, legal))
    return Advice(f"set TENSOR_PARALLEL to {listed} or auto", {"TENSOR_PARALLEL": str(legal[-1])})


def _nccl(_groups: Groups, facts: Facts) -> Advice:
    return Advice(
        "set NCCL_DEBUG=INFO to see which link fails; NCCL_P2P_DISABLE=1 and NCCL_IB_DISABLE=1 rule out "
        f"broken links between GPUs; TENSOR_PARALLEL=1 does not need it{_shm(facts)}"
    )


def _more_shm(groups: Groups, _facts: Facts) -> Advice:
    size = max(8, -(-2 * int(groups.get("required", 0)) // 1024))
    return Advice(
        f"set shm_size: {size}g in compose, --shm-size={size}g or --ipc=host in Docker, an emptyDir of "
        "medium Memory on /dev/shm in Kubernetes"
    )


def _shm(facts: Facts) -> str:
    return f"; /dev/shm has {facts.shm_bytes >> 20} MiB" if facts.shm_bytes is not None else ""


GPU = (
    KnownFailure(
        code="gpu-driver-too-old",
        seen="`The NVIDIA driver on your system is too old (found version 12080)`; `Error 804: forward "
        "compatibility was attempted on non supported HW`; `CUDA driver version is insufficient for CUDA "
        "runtime version`.",
        cause="the host's NVIDIA driver is too old for the CUDA that this vLLM was built with",
        remedy=_driver,
        patterns=(
            r"NVIDIA driver on your system is too old \(found version (?P<version>\d+)\)",
            r"Error 804: forward compatibility was attempted|Error 803: system has unsupported display "
            r"driver",
            r"CUDA driver version is insufficient for CUDA runtime version",
            r"the provided PTX was compiled with an unsupported toolchain",
        ),
    ),
    KnownFailure(
        code="no-gpu",
        seen="`Failed to infer device type`; `Found no NVIDIA driver on your system`; `No CUDA GPUs are "
        "available`; `libcuda.so.1: cannot open shared object file`.",
        cause="no GPU is visible, and this vLLM needs one",
        remedy="give the container its GPUs: `docker run --gpus all` with the NVIDIA Container Toolkit on "
        "the host, `deploy.resources.reservations.devices` in compose, nvidia.com/gpu in Kubernetes; check "
        "CUDA_VISIBLE_DEVICES; or use the CPU build",
        patterns=(
            r"Failed to infer device type",
            r"Found no NVIDIA driver on your system",
            r"No CUDA GPUs are available|no CUDA-capable device is detected",
            r"libcuda\.so(?:\.1)?: cannot open shared object file",
            r"NVML Shared Library Not Found",
        ),
    ),
    KnownFailure(
        code="gpu-not-supported",
        seen="`CUDA error: no kernel image is available for execution on the device`.",
        cause="this build of vLLM or torch has no code for this GPU's generation",
        remedy="use an image built for this GPU: newer for a new card, an older vLLM for an old one",
        patterns=(r"no kernel image is available for execution on the device",),
    ),
    KnownFailure(
        code="dtype-not-supported",
        seen="`Bfloat16 is only supported on GPUs with compute capability of at least 8.0`.",
        cause="DTYPE={dtype} is not supported by this GPU ({gpu} has compute capability {capability})",
        remedy=setting("DTYPE", "float16", ", or auto"),
        patterns=(
            r"Bfloat16 is only supported on GPUs with compute capability of at least 8\.0\."
            r"(?: Your (?P<gpu>.+?) GPU has compute capability (?P<capability>[\d.]+))?",
        ),
    ),
    KnownFailure(
        code="dtype-not-supported-by-model",
        seen="`torch.bfloat16 is not supported for quantization method awq. Supported dtypes: "
        "[torch.float16]`.",
        cause="DTYPE={given} is not supported with the model's quantisation {method}",
        remedy=lambda groups, _facts: setting("DTYPE", groups.get("wanted", "float16")),
        patterns=(
            r"torch\.(?P<given>\w+) is not supported for quantization method (?P<method>[\w-]+)\."
            r"(?: Supported dtypes: \[torch\.(?P<wanted>\w+))?",
        ),
    ),
    KnownFailure(
        code="tensor-parallel-invalid",
        seen="`Total number of attention heads (9) must be divisible by tensor parallel size (2)`; `World "
        "size (4) is larger than the number of available GPUs (2)`.",
        cause="TENSOR_PARALLEL={asked} does not fit: the model has {heads} attention heads, the machine "
        "{gpus} GPU(s)",
        remedy=_tensor_parallel,
        patterns=(
            r"attention heads \((?P<heads>\d+)\) must be divisible by tensor parallel size "
            r"\((?P<asked>\d+)\)",
            r"World size \((?P<asked>\d+)\) is larger than the number of available GPUs \((?P<gpus>\d+)\)",
            r"ensure that world_size \((?P<asked>\d+)\) is less than than max local gpu count "
            r"\((?P<gpus>\d+)\)",
        ),
    ),
    KnownFailure(
        code="shared-memory-too-small",
        seen="`Insufficient space in /dev/shm for shared-memory allocation: 160 MiB required`; `Error "
        "while creating shared memory segment /dev/shm/nccl-… (size 7340384)`; a bus error.",
        cause="/dev/shm is too small for the engine's processes to communicate ({shm} in all, {required} "
        "MiB needed)",
        remedy=_more_shm,
        patterns=(
            r"Insufficient space in /dev/shm for shared-memory allocation(?:: (?P<required>\d+) MiB "
            r"required)?",
            r"Error while (?:creating|attaching to) shared memory segment",
            r"No space left on device.*/dev/shm|/dev/shm.*No space left on device",
            r"unable to (?:write to|allocate shared memory).*shm",
        ),
        stage=Stage.ANY,
    ),
    KnownFailure(
        code="nccl-failed",
        seen="`torch.distributed.DistBackendError: NCCL error in: …, unhandled system error`.",
        cause="NCCL failed: the GPUs could not communicate",
        remedy=_nccl,
        patterns=(
            r"DistBackendError: NCCL error|RuntimeError: NCCL error|NCCL error: unhandled",
            r"ncclSystemError|ncclRemoteError|ncclInvalidUsage",
            r"Watchdog caught collective operation timeout",
        ),
        unless=r"shared memory segment",
        stage=Stage.ANY,
        retryable=True,
    ),
    KnownFailure(
        code="gpu-fault",
        seen="`CUDA error: an illegal memory access was encountered`; `device-side assert triggered`; `Xid`.",
        cause="the GPU or a kernel of vLLM's failed ({fault})",
        remedy="the engine can be started again; if it repeats set ENFORCE_EAGER=1 or another "
        "ATTENTION_BACKEND, update vLLM, and look for Xid errors in the host's kernel log: they mean "
        "hardware",
        patterns=(
            r"CUDA error: (?P<fault>an illegal memory access was encountered|unspecified launch failure|"
            r"device-side assert triggered|uncorrectable ECC error encountered|misaligned address)",
            r"(?P<fault>GPU has fallen off the bus|GPU is lost)",
        ),
        stage=Stage.ANY,
        retryable=True,
    ),
)
