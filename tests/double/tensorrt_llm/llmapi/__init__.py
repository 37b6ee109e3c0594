from ..builder import BuildConfig, CalibConfig, PluginConfig, QuantConfig
from ..configs import DynamicBatchConfig, ExtendedRuntimePerfKnobConfig, KvCacheConfig, SchedulerConfig
from ..enums import BatchingType, CapacitySchedulerPolicy, ContextChunkingPolicy, QuantAlgo
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
