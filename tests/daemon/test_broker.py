"""The embedded broker, as others' clients see it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from daemon.broker import EmbeddedBroker


async def outside(*command: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode is not None
    return process.returncode, output.decode()


def publish(port: int, topic: str, text: str) -> tuple[str, ...]:
    return ("mosquitto_pub", "-p", str(port), "-q", "1", "-r", "-t", topic, "-m", text)


def test_a_retained_message_reaches_a_client_that_comes_later() -> None:
    async def story() -> tuple[int, str]:
        broker = EmbeddedBroker(port=0)
        await broker.start()
        try:
            assert (await outside(*publish(broker.port, "hall/h1/x", "你好")))[0] == 0
            return await outside(
                "mosquitto_sub", "-p", str(broker.port), "-t", "hall/#", "-C", "1", "-F", "%r %p"
            )
        finally:
            await broker.stop()

    assert asyncio.run(story()) == (0, "1 你好\n")


def test_stopping_leaves_no_task_no_thread_and_a_free_port() -> None:
    async def story() -> tuple[set[str], int]:
        broker = EmbeddedBroker(port=0)
        await broker.start()
        port = broker.port
        listener = await asyncio.create_subprocess_exec(
            "mosquitto_sub", "-p", str(port), "-t", "#", stdout=asyncio.subprocess.DEVNULL
        )
        silent_reader, silent = await asyncio.open_connection("127.0.0.1", port)
        await outside(*publish(port, "a", "b"))

        await broker.stop()

        left = {
            str(task.get_coro())
            for task in asyncio.all_tasks()
            if task is not asyncio.current_task()
        }
        assert await asyncio.wait_for(silent_reader.read(), 5) == b""
        silent.close()
        listener.kill()
        await listener.wait()
        again = EmbeddedBroker(port=port)
        await again.start()
        await again.stop()
        return left, port

    threads = set(threading.enumerate())
    left, _ = asyncio.run(story())
    # asyncio waits for the clients' processes, which are the test's own, in threads so named.
    new = {
        thread
        for thread in set(threading.enumerate()) - threads
        if not thread.name.startswith("asyncio-waitpid")
    }

    assert left == set()
    assert new == set()


def test_hostile_bytes_end_only_their_own_connection() -> None:
    async def story() -> int:
        broker = EmbeddedBroker(port=0)
        await broker.start()
        try:
            for rubbish in (b"GET / HTTP/1.1\r\n\r\n", b"\x10\xff\xff\xff\xff\xff", b"\x10\x02\0"):
                _, writer = await asyncio.open_connection("127.0.0.1", broker.port)
                writer.write(rubbish)
                await writer.drain()
                writer.close()
            return (await outside(*publish(broker.port, "a", "b")))[0]
        finally:
            await broker.stop()

    assert asyncio.run(story()) == 0


def test_a_client_that_speaks_mqtt_5_is_told_so_at_once() -> None:
    # With a will, retained, QoS 1, as hallwatch sends it.
    connect = bytes.fromhex("10 18 00 04 4D 51 54 54 05 2E 00 1E 00 00 04") + b"name"
    connect += bytes.fromhex("00 00 01 74 00 01 78")

    async def story() -> bytes:
        broker = EmbeddedBroker(port=0)
        await broker.start()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", broker.port)
            writer.write(connect)
            answer = await asyncio.wait_for(reader.read(), 5)
            writer.close()
            return answer
        finally:
            await broker.stop()

    assert asyncio.run(story()) == bytes.fromhex("20 02 00 01")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "hall.example", ""])
def test_it_refuses_to_listen_for_other_machines(host: str) -> None:
    with pytest.raises(ValueError, match="loopback"):
        EmbeddedBroker(host)


def test_an_address_in_use_is_an_os_error_and_leaves_nothing_running() -> None:
    async def story() -> int:
        first = EmbeddedBroker(port=0)
        await first.start()
        second = EmbeddedBroker(port=first.port)
        with pytest.raises(OSError, match="in use"):
            await second.start()
        await first.stop()
        return len(asyncio.all_tasks())

    assert asyncio.run(story()) == 1
