"""The worker protocol of the gateway smg (Shepherd Model Gateway): `TrtllmService` over our own generation.

Nothing of it is imported unless `--smg-worker` asks for it.
"""

from __future__ import annotations

import grpc

from inference_service.config import ServiceConfig
from inference_service.models import loader
from inference_service.models.tokenizer_files import tokenizer_files
from inference_service.rpc.call import RunningCalls
from inference_service.rpc.health import HealthMonitor
from inference_service.rpc.quotas import QuotaControl
from inference_service.rpc.services import GenerateServicer
from inference_service.scheduling.loaded_engine import EngineSlot
from lodestream_common.errors import SettingError, install_command
from lodestream_common.pacing import Pacer

SERVICE = "trtllm.TrtllmService"


def smg_handler(
    config: ServiceConfig,
    *,
    slot: EngineSlot,
    pacer: Pacer,
    quotas: QuotaControl,
    health: HealthMonitor,
    calls: RunningCalls,
) -> grpc.GenericRpcHandler:
    """The methods of the protocol, for the server.

    Raises:
        SettingError: the extra `smg` is not installed.

    """
    try:
        from inference_service.rpc.smg.request import parse_whole_tokens
        from inference_service.rpc.smg.service import SmgServicer
    except ModuleNotFoundError:
        raise SettingError(f"smg_worker: needs the extra smg; run: {install_command('smg')}") from None
    generate = GenerateServicer(slot, pacer, quotas, parse_whole_tokens)

    def files() -> dict[str, bytes]:
        return tokenizer_files(loader.configured(config, show_progress=False).path)

    return SmgServicer(generate, slot, health, files).handlers(calls)
