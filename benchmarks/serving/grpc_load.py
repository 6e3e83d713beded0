"""Load over gRPC: the same plan and the same words as :mod:`benchmarks.serving.load`, on grpcio's asyncio client.

``python -m benchmarks.serving.grpc_load`` reads the JSON plan, whose requests are serialized messages. Each caller has
a channel of its own and one call under way. The client costs about as much as a server: read the server's CPU, not the
requests a second.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict

import grpc

from benchmarks.serving.load import Plan, Seen, measured, requests_of

METHOD = "/inference.GRPCInferenceService/ModelInfer"
_LARGEST = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class _Caller:
    def __init__(self, plan: Plan, requests: list[bytes], number: int) -> None:
        # A channel of the same target and arguments would share its connection.
        arguments = [*_LARGEST, ("grpc.use_local_subchannel_pool", 1), ("headrace.caller", number)]
        self._channel = grpc.aio.insecure_channel(f"{plan.host}:{plan.port}", options=arguments)
        self._ask = self._channel.unary_unary(METHOD)
        self._requests = requests
        self._turn = number
        self.latencies: list[float] = []
        self.errors = 0

    async def run(self, stopped: asyncio.Event) -> None:
        while not stopped.is_set():
            self._turn = (self._turn + 1) % len(self._requests)
            began = time.perf_counter()
            try:
                await self._ask(self._requests[self._turn])
            except grpc.aio.AioRpcError:
                self.errors += 1
            self.latencies.append(time.perf_counter() - began)
        await self._channel.close()


async def run(plan: Plan) -> Seen:
    requests = requests_of(plan)
    callers = [_Caller(plan, requests, number) for number in range(plan.connections)]
    stopped = asyncio.Event()
    running = [asyncio.create_task(caller.run(stopped)) for caller in callers]
    found = await measured(plan, callers)
    stopped.set()
    await asyncio.gather(*running)
    return found


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(run(Plan(**json.load(sys.stdin)))))))
