"""The real engine: vLLM's AsyncLLM on CUDA or CPU (written against 0.25.1 and 0.32).

Token ids in, token ids out; the tokenizer is not even loaded by vLLM. The history of a conversation stays in the
prefix cache, so turn t+1 pays for the last reply and one sentence only.
"""

import asyncio
import json
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from placid.config import file_sha
from placid.engine import ContextOverflowError, Reply, ReplyRequest
from placid.engine.gate import read_probe, verify
from placid.engine.settings import EngineSettings
from placid.records import BadInputError, Finish
from placid.render import Renderer

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

log = logging.getLogger(__name__)

QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
"""Nothing leaves the machine, and the log is ours."""


def set_environment(settings: EngineSettings, core: int | None) -> None:
    """What vLLM and its child processes read from the environment. Call before vllm is imported.

    core: the CPU core for this engine's computation; None leaves it to the operating system. vLLM's own choice would
    pin every engine of a machine to core 0.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind" if core is None else str(core)
    os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    os.environ["VLLM_USE_FLASHINFER_SAMPLER"] = "0"  # its kernels are compiled at first use; needs a CUDA toolkit


class VllmEngine:
    """One AsyncLLM, with every adapter of the run behind its gate."""

    name = "vllm"

    def __init__(
        self, settings: EngineSettings, model: Path, adapters: tuple[str, ...] = (), core: int | None = None
    ) -> None:
        """Light; start() loads. `adapters` are folders of PEFT adapters, each with its probe.json."""
        self.settings, self.model, self.core = settings, model, core
        self.adapters = tuple(dict.fromkeys(adapters))
        self.context_tokens = settings.context_tokens
        self.version = ""
        self.gates: dict[str, dict[str, float]] = {}
        self._lora: dict[str, LoRARequest] = {}
        self._count = 0
        self._engine: Any = None

    async def start(self) -> None:
        """Load the weights and check every adapter.

        Raises:
            BadInputError: an adapter folder without adapter or probe. GateError: a no-op or mismatching adapter.
        """
        probes = {path: read_probe(Path(path)) for path in self.adapters}  # bad input fails before weights load
        began = time.monotonic()
        set_environment(self.settings, self.core)
        import vllm
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.lora.request import LoRARequest
        from vllm.v1.engine.async_llm import AsyncLLM

        self.version = vllm.__version__
        self._renderer = Renderer(self.model)
        self._stop = sorted(self._renderer.stop_ids)
        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**self._arguments()))
        for number, path in enumerate(self.adapters, 1):
            # a name that no other weights ever had: the prefix cache is keyed by it
            name = f"adapter-{file_sha(Path(path))[:16]}"
            self._lora[path] = LoRARequest(lora_name=name, lora_int_id=number, lora_path=str(Path(path).absolute()))
        for path, probe in probes.items():
            base = [await self._score(row.ids, None) for row in probe.rows]
            adapted = [await self._score(row.ids, self._lora[path]) for row in probe.rows]
            self.gates[path] = verify(probe, base, adapted, path)
            log.info("adapter %s passed its gate: %s", path, self.gates[path])
        log.info("vLLM %s is up after %.1f s", self.version, time.monotonic() - began)

    def _arguments(self) -> dict[str, Any]:
        """AsyncEngineArgs, only such as both vLLM releases know."""
        from vllm.platforms import current_platform

        cpu = current_platform.is_cpu()
        settings = self.settings
        arguments: dict[str, Any] = {
            "model": str(self.model),
            "skip_tokenizer_init": True,
            "dtype": "bfloat16",
            "max_model_len": settings.context_tokens,
            "max_num_seqs": settings.max_concurrent,
            "kv_cache_memory_bytes": int(settings.kv_gib * 2**30),
            "block_size": settings.block_tokens,
            "enable_prefix_caching": settings.prefix_caching,
            "enforce_eager": cpu,
            "disable_log_stats": True,  # each reply carries its own cached-token count
            "enable_log_requests": False,
        }
        if cpu:
            # the model runs inside the engine's process: one import of vLLM less at the start, no message per step
            os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
            arguments["distributed_executor_backend"] = "uni"
            # a seeded request that is prefilled in chunks kills vLLM on CPU ("CPU Generator does not use offset": it
            # rewinds the generator after each chunk, which only a CUDA generator can), so prompts go in whole
            arguments |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(4096, settings.context_tokens)}
        if self.adapters:
            # one slot more than adapters: on CPU a request without LoRA in a mixed batch gets the weights of the LAST
            # slot (vLLM indexes with -1), so that slot must stay empty
            arguments |= {
                "enable_lora": True,
                "max_loras": len(self.adapters) + 1,
                "max_lora_rank": max(_rank(Path(path)) for path in self.adapters),
                # else every projection of the model pays for a LoRA product with zeros
                "lora_target_modules": sorted({name for path in self.adapters for name in _targets(Path(path))}),
            }
        return arguments

    async def _score(self, ids: tuple[int, ...], lora: "LoRARequest | None") -> list[float]:
        """Log-probabilities in nats of ids[1:], each given what is before it."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        output = await self._generate(ids, params, lora)
        return [at[token].logprob for token, at in zip(ids[1:], output.prompt_logprobs[1:], strict=True)]

    async def _generate(self, ids: tuple[int, ...], params: Any, lora: "LoRARequest | None") -> Any:  # noqa: ANN401 - vLLM's types
        """The final output of one request."""
        from vllm import TokensPrompt

        self._count += 1
        final = None
        async for output in self._engine.generate(
            TokensPrompt(prompt_token_ids=list(ids)), params, str(self._count), lora_request=lora
        ):
            final = output
        if final is None:
            raise RuntimeError("vLLM ended a request without any output")
        return final

    async def reply(self, request: ReplyRequest) -> Reply:
        """Raises ContextOverflowError, or whatever vLLM died of."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        room = self.context_tokens - len(request.prompt_ids)
        if room < 1:
            raise ContextOverflowError(f"{len(request.prompt_ids)} prompt tokens, {self.context_tokens} of context")
        if request.adapter is not None and request.adapter not in self._lora:
            raise BadInputError(f"adapter {request.adapter} was not given to this engine; it has {list(self._lora)}")
        params = SamplingParams(
            max_tokens=min(request.max_tokens, room),
            temperature=request.temperature,
            seed=request.seed,
            stop_token_ids=self._stop,
            detokenize=False,
            allowed_token_ids=list(request.allowed_ids) or None,
            logprobs=0 if request.logprobs else None,  # 0: of the sampled token alone
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        lora = self._lora[request.adapter] if request.adapter is not None else None
        output = await self._generate(request.prompt_ids, params, lora)
        done = output.outputs[0]
        ids = tuple(done.token_ids)
        stopped = done.finish_reason == "stop"
        if stopped and ids and ids[-1] in self._renderer.stop_ids:
            ids = ids[:-1]
        return Reply(
            token_ids=ids,
            text=self._renderer.decode(ids),
            finish=Finish.STOP if stopped else Finish.LENGTH,
            cached_tokens=output.num_cached_tokens or 0,
            logprobs=tuple(at[token].logprob for token, at in zip(ids, done.logprobs, strict=False))
            if request.logprobs
            else None,
        )

    async def close(self) -> None:
        """Ends the engine's processes and waits for them."""
        if self._engine is not None:
            engine, self._engine = self._engine, None
            reader = getattr(engine, "output_handler", None)
            if reader is not None:
                reader.cancel()  # else it reports the end of the engine's process as a failure
            await asyncio.to_thread(engine.shutdown)


def _rank(adapter: Path) -> int:
    """The adapter's LoRA rank, at least the smallest that vLLM takes (8)."""
    return max(8, int(json.loads((adapter / "adapter_config.json").read_text())["r"]))


def _targets(adapter: Path) -> list[str]:
    """Names of the projections that the adapter changes."""
    return json.loads((adapter / "adapter_config.json").read_text())["target_modules"]
