"""The real engine: vLLM's AsyncLLM on CUDA or CPU (written against 0.25.1 and 0.32).

Token ids in, token ids out; the tokenizer is not even loaded by vLLM. The history of a conversation stays in the
prefix cache, so turn t+1 pays for the last reply and one sentence only.
"""

import asyncio
import json
import logging
import os
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from placid.checkpoint_files import read_header
from placid.cluster.children import keep
from placid.config import file_sha
from placid.engine import ContextOverflowError, EngineDiedError, EngineLoad, KvPool, Reply, ReplyRequest
from placid.engine.gate import CACHED, Probe, read_probe, verify
from placid.engine.settings import RANKS, EngineSettings
from placid.environment import forget_launcher
from placid.records import BadInputError, Finish
from placid.render import Renderer

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

log = logging.getLogger(__name__)

QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
"""Nothing leaves the machine, and the log is ours."""
FRESH = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
"""As `vllm serve` does: new programs, which bear the mark of cluster/children.py; a fork would not."""


def set_environment(settings: EngineSettings, core: int | None) -> None:
    """What vLLM and its child processes read from the environment. Call before vllm is imported.

    core: the CPU core for this engine's computation; None leaves it to the operating system. vLLM's own choice would
    pin every engine of a machine to core 0.
    """
    forget_launcher()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    os.environ.update(FRESH)
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
        self.pool: KvPool | None = None
        self.load = EngineLoad()
        self.version = ""
        self.cache_probe: float | None = None
        """Share of the reusable tokens that two alternating conversations found at the start."""
        self.gates: dict[str, dict[str, float]] = {}
        self._lora: dict[str, LoRARequest] = {}
        self._count = 0
        self._engine: Any = None

    async def start(self) -> None:
        """Load the weights and check every adapter.

        Raises:
            BadInputError: an adapter folder without adapter or probe, or no torchvision for a checkpoint with images.
            GateError: a no-op or mismatching adapter.
        """
        probes = {path: read_probe(Path(path)) for path in self.adapters}  # bad input fails before weights load
        own = read_probe(self.model) if (self.model / "probe.json").is_file() else None
        if "vision_config" in self._config() and not find_spec("torchvision"):
            raise BadInputError(
                f"{self.model} is a checkpoint with images, for which vLLM needs the package torchvision; "
                "the CPU build has none: install it beside torch, or give a checkpoint of the text model"
            )
        began = time.monotonic()
        set_environment(self.settings, self.core)
        keep()
        import vllm
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.lora.request import LoRARequest
        from vllm.v1.engine.async_llm import AsyncLLM

        self.version = vllm.__version__
        self._renderer = Renderer(self.model)
        self._stop = sorted(self._renderer.stop_ids)
        self._engine = AsyncLLM.from_engine_args(
            AsyncEngineArgs(**self._arguments()), stat_loggers=[_watcher(self.load)]
        )
        for number, path in enumerate(self.adapters, 1):
            # a name that no other weights ever had: the prefix cache is keyed by it
            name = f"adapter-{file_sha(Path(path))[:16]}"
            self._lora[path] = LoRARequest(lora_name=name, lora_int_id=number, lora_path=str(Path(path).absolute()))
        if own:  # trained as a whole, or merged
            self.gates[str(self.model)] = await self._gate(own, None, str(self.model))
        for path, probe in probes.items():
            self.gates[path] = await self._gate(probe, self._lora[path], path)
        for path, numbers in self.gates.items():
            log.info("%s passed its gate: %s", path, numbers)
        self.pool = _pool(self._config(), self._engine.vllm_config.cache_config)
        if self.settings.prefix_caching:
            await self._probe_cache()
        log.info("vLLM %s is up after %.1f s", self.version, time.monotonic() - began)

    def _config(self) -> dict[str, Any]:
        """The checkpoint's config.json."""
        return json.loads((self.model / "config.json").read_text(encoding="utf-8"))

    def _arguments(self) -> dict[str, Any]:
        """AsyncEngineArgs, only such as both vLLM releases know."""
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform

        known = AsyncEngineArgs.__dataclass_fields__
        cpu = current_platform.is_cpu()
        settings = self.settings
        arguments: dict[str, Any] = {
            "model": str(self.model),
            "skip_tokenizer_init": True,
            "dtype": settings.dtype,
            "max_model_len": settings.context_tokens,
            "max_num_seqs": settings.max_concurrent,
            "kv_cache_memory_bytes": int(settings.kv_gib * 2**30),
            "block_size": settings.block_tokens,
            "enable_prefix_caching": settings.prefix_caching,
            "enforce_eager": cpu,
            "disable_log_stats": True,  # each reply carries its own cached-token count
            "enable_log_requests": False,
            "tensor_parallel_size": settings.tensor_parallel,
            "load_format": settings.load_format,
        }
        if "prefix_cache_retention_interval" in known:
            arguments["prefix_cache_retention_interval"] = settings.retention_tokens
        elif settings.retention_tokens is not None:  # vLLM 0.25
            os.environ["VLLM_PREFIX_CACHE_RETENTION_INTERVAL"] = str(settings.retention_tokens)
        config = self._config()
        if "vision_config" in config:  # its image processor would ask for the tokenizer that vLLM is not given
            arguments["language_model_only"] = True
        if not cpu and _fills_gpu(config, settings.tensor_parallel):
            arguments["attention_config"] = {"flash_attn_max_num_splits_for_cuda_graph": 1}
        if settings.ngram_tokens:
            arguments["speculative_config"] = {
                "method": "ngram",
                "num_speculative_tokens": settings.ngram_tokens,
                "prompt_lookup_max": 4,
                "prompt_lookup_min": 2,
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

    async def _probe_cache(self) -> None:
        """Two conversations in turn, three turns each, must find their history: hybrid caches are known to lose it all.

        Only a warning, with the number: a run without hits is slow and right.
        """
        size = self.settings.block_tokens
        room = self.context_tokens // 8 // size
        if room < 1:
            return
        length, wanted, found = room * size, 0, 0  # three turns of an eighth of the context: beyond Gemma's window
        histories = [[self._stop[0]] + [10 + k] * (length - 1) for k in range(2)]
        for turn in range(3):
            for history in histories:
                request = ReplyRequest(prompt_ids=tuple(history), max_tokens=2, temperature=0.0, seed=0)
                reply = await self.reply(request)
                if turn:
                    wanted, found = wanted + len(history) - length - 2 * size, found + reply.cached_tokens
                history += [*reply.token_ids, *[11 + turn] * length]
        self.cache_probe = min(1.0, found / max(wanted, 1))
        if self.cache_probe < 1:
            log.warning("prefix cache: two alternating conversations found %d of %d reusable tokens", found, wanted)

    async def _score(self, ids: tuple[int, ...], lora: "LoRARequest | None") -> list[float]:
        """Log-probabilities in nats of ids[1:], each given what is before it."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        output = await self._generate(ids, params, lora)
        return [at[token].logprob for token, at in zip(ids[1:], output.prompt_logprobs[1:], strict=True)]

    async def _gate(self, probe: Probe, lora: "LoRARequest | None", name: str) -> dict[str, float]:
        """verify()'s numbers for what is served under `lora`; None: a whole trained model, whose base is not here."""
        cached = [await self._score_cached(row.ids, lora) for row in probe.rows]  # first: later requests fill the cache
        base = [await self._score(row.ids, None) if lora else list(row.base) for row in probe.rows]
        adapted = [await self._score(row.ids, lora) for row in probe.rows]
        return verify(probe, base, adapted, cached, name)

    async def _score_cached(self, ids: tuple[int, ...], lora: "LoRARequest | None") -> list[float]:
        """_score() of the last CACHED ids, computed as replies are: whole prompts are scored without the cache."""
        found = []
        for at in range(max(1, len(ids) - CACHED), len(ids)):
            request = ReplyRequest(prompt_ids=ids[:at], max_tokens=1, temperature=0.0, seed=0, among=(ids[at],))
            output = await self._generate(ids[:at], self._params(request, 1), lora)
            found.append(output.outputs[0].logprobs[0][ids[at]].logprob)
        return found

    async def _generate(self, ids: tuple[int, ...], params: Any, lora: "LoRARequest | None") -> Any:  # noqa: ANN401 - vLLM's types
        """The final output of one request."""
        from vllm import TokensPrompt
        from vllm.v1.engine.exceptions import EngineDeadError

        self._count += 1
        final = None
        try:
            async for output in self._engine.generate(
                TokensPrompt(prompt_token_ids=list(ids)), params, str(self._count), lora_request=lora
            ):
                final = output
        except EngineDeadError as error:
            raise EngineDiedError(f"vLLM's engine process is gone: {error}") from None
        if final is None:
            raise RuntimeError("vLLM ended a request without any output")
        return final

    def _params(self, request: ReplyRequest, room: int) -> Any:  # noqa: ANN401 - SamplingParams
        """How this reply is sampled; `room`: tokens that the context has left."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        chosen: dict[str, Any] = (
            {"max_tokens": 1, "allowed_token_ids": list(request.among), "logprob_token_ids": list(request.among)}
            if request.among
            else {
                "max_tokens": min(request.max_tokens, room),
                "logprobs": 0 if request.logprobs else None,  # 0: of the sampled token alone
            }
        )
        return SamplingParams(
            temperature=request.temperature,
            seed=request.seed,
            stop_token_ids=self._stop,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            **chosen,
        )

    async def reply(self, request: ReplyRequest) -> Reply:
        """Raises ContextOverflowError, or whatever vLLM died of."""
        room = self.context_tokens - len(request.prompt_ids)
        if room < 1:
            raise ContextOverflowError(f"{len(request.prompt_ids)} prompt tokens, {self.context_tokens} of context")
        if request.adapter is not None and request.adapter not in self._lora:
            raise BadInputError(f"adapter {request.adapter} was not given to this engine; it has {list(self._lora)}")
        lora = self._lora[request.adapter] if request.adapter is not None else None
        output = await self._generate(request.prompt_ids, self._params(request, room), lora)
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
            among=tuple(done.logprobs[0][token].logprob for token in request.among) if request.among else None,
        )

    async def close(self) -> None:
        """Ends the engine's processes and waits for them."""
        if self._engine is not None:
            engine, self._engine = self._engine, None
            reader = getattr(engine, "output_handler", None)
            if reader is not None:
                reader.cancel()  # else it reports the end of the engine's process as a failure
            await asyncio.to_thread(engine.shutdown)


def _watcher(load: EngineLoad) -> Any:  # noqa: ANN401 - vLLM's factory of stat loggers
    """What vLLM tells of each step, into `load`; its own loggers stay off."""
    from vllm.v1.metrics.loggers import StatLoggerBase

    class Watcher(StatLoggerBase):
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:  # noqa: ANN401
            del vllm_config, engine_index

        def record(self, scheduler_stats: Any, iteration_stats: Any, *more: Any, **named: Any) -> None:  # noqa: ANN401
            del more, named
            if scheduler_stats is not None:
                load.kv_use, load.running = scheduler_stats.kv_cache_usage, scheduler_stats.num_running_reqs
            if iteration_stats is not None:
                load.preemptions += iteration_stats.num_preempted_reqs
                load.generated += iteration_stats.num_generation_tokens

        def log_engine_initialized(self) -> None:
            return

    return Watcher


def _rank(adapter: Path) -> int:
    """The smallest rank that vLLM has room for and that holds the adapter's highest."""
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    highest = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    return next(rank for rank in RANKS if rank >= highest)


def _targets(adapter: Path) -> set[str]:
    """Names of the projections that the adapter changes; its config may give a regular expression instead."""
    _, tensors = read_header(adapter / "adapter_model.safetensors")
    return {name.partition(".lora_")[0].rpartition(".")[2] for name in tensors}


def _fills_gpu(config: dict[str, Any], ranks: int) -> bool:
    """Do 17 conversations occupy every multiprocessor of a GPU when each of their key heads is one piece of work?

    Then FlashAttention need not divide their contexts into parts, add those up and plan it anew in each layer: 2.3 % of
    a step of Gemma-3-27B with 72 conversations on an H200 (132 multiprocessors).
    """
    text = config.get("text_config", config)
    return 17 * (text.get("num_key_value_heads") or text["num_attention_heads"]) // ranks >= 132


def _pool(config: dict[str, Any], cache: Any) -> KvPool | None:  # noqa: ANN401 - vLLM's CacheConfig
    """The cache's layout, by vLLM's rule for hybrid models: layers of one kind in groups as large as the rarer kind.

    A group's block has `block_size` tokens; all groups draw from one pool of `num_gpu_blocks`.
    """
    text = config.get("text_config", config)
    kinds = text.get("layer_types") or _pattern(text)
    sliding = sum(kind == "sliding_attention" for kind in kinds)
    full = len(kinds) - sliding
    if not cache.num_gpu_blocks or not full:
        return None
    size = min(full, sliding) if sliding else full
    if max(full, sliding) < 1.5 * size:
        size = max(full, sliding)
    return KvPool(
        blocks=cache.num_gpu_blocks,
        block_tokens=cache.block_size,
        full_groups=-(-full // size),
        window_groups=-(-sliding // size),
        window=text.get("sliding_window") or 0,
    )


def _pattern(text: dict[str, Any]) -> list[str]:
    """Layer kinds of an older config: every n-th layer is full; without a pattern all are."""
    every = text.get("sliding_window_pattern") or 1
    return [
        "full_attention" if layer % every == every - 1 else "sliding_attention"
        for layer in range(text["num_hidden_layers"])
    ]
