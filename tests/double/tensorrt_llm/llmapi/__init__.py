from ..builder import BuildConfig, CalibConfig, PluginConfig, QuantConfig
from ..configs import (
    BatchingType,
    CapacitySchedulerPolicy,
    ContextChunkingPolicy,
    DynamicBatchConfig,
    ExtendedRuntimePerfKnobConfig,
    KvCacheConfig,
    QuantAlgo,
    SchedulerConfig,
)
from ..executor.result import CompletionOutput, RequestOutput
from ..executor.utils import RequestError
from ..sampling_params import GuidedDecodingParams, SamplingParams

__all__ = [
    "BatchingType",
    "BuildConfig",
    "CalibConfig",
    "CapacitySchedulerPolicy",
    "CompletionOutput",
    "ContextChunkingPolicy",
    "DynamicBatchConfig",
    "ExtendedRuntimePerfKnobConfig",
    "GuidedDecodingParams",
    "KvCacheConfig",
    "PluginConfig",
    "QuantAlgo",
    "QuantConfig",
    "RequestError",
    "RequestOutput",
    "SamplingParams",
    "SchedulerConfig",
]
