"""Device trouble 设备异常 (DEV-06, DEV-09): what a device, or the line it hangs on, complains of.

A cover that was opened is red (DEV-06).  Everything else that a technician has to mend is DEV-09,
yellow where readings may be missing because of it and a notice otherwise: two devices with one
address, a pad with a key that the settings do not know, a board that does not take its text, a
queue host that no longer answers its keypads, a line that is too slow.

One alert for each device and kind of trouble on a date, from its first time on; it expires at
midnight, or is resolved where the device says that it is over.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from rules.model import SEVERITY, Alert, AskAgain, HallDay, Instant, stable_id

CODES = ("DEV-06", "DEV-09")
SCOPE = "hall"

TAMPER = ("tamper", "reader_tamper")
TROUBLES = {
    **dict.fromkeys(TAMPER, ("red", "设备被拆动", "the device was tampered with")),
    "address_conflict": ("yellow", "地址冲突", "two devices seem to have one address"),
    "checksum_trouble": ("yellow", "线路误码偏多", "many frames arrive damaged"),
    "board_failed": ("notice", "显示屏写入失败", "the board does not take its text"),
    "clean_sensor": ("notice", "指纹头需清洁", "the sensor needs cleaning"),
    "device_failure": ("yellow", "设备报告故障", "the device reports a failure"),
    "device_replaced": ("yellow", "设备被更换", "another device answers at this address"),
    "camera_trouble": ("notice", "摄像头配置或部件异常", "a camera's part does not work"),
    "disk_error": ("yellow", "录像机硬盘故障", "the recorder's disk fails"),
    "disk_full": ("notice", "录像机硬盘已满", "the recorder's disk is full"),
    "duplicate_client_id": ("yellow", "客户端编号重复", "another client uses our name"),
    "fault": ("yellow", "设备故障", "the device reports a fault"),
    "gateway_path": ("yellow", "网关配置错误", "the gateway has no path to the device"),
    "library_empty": ("yellow", "指纹库为空", "no finger is enrolled any more"),
    "line_busy": ("notice", "线路负载过高", "the line is more than 80 % busy"),
    "log_cleared": ("yellow", "设备记录被清空", "the device's log was cleared"),
    "mac_changed": ("notice", "网卡地址变化", "the device's network address changed"),
    "queue_host_silent": ("yellow", "叫号主机无应答", "the queue host does not answer keypads"),
    "record_failed": ("yellow", "录像失败", "the recorder cannot record"),
    "relearn_proposed": (
        "notice",
        "岗位画面长期变化，请重新学习空岗",
        "the empty post looks different for good; learn it anew",
    ),
    "sensor_covered": ("yellow", "指纹头被遮挡", "the sensor is covered"),
    "template_count_differs": ("notice", "指纹数量不符", "fewer or more fingers than expected"),
    "two_addresses": ("notice", "同一序列号两个地址", "one serial number at two addresses"),
    "unknown_address": ("notice", "未配置的地址", "a device that the settings do not name"),
    "unmapped_code": ("yellow", "按键未配置", "a key that the settings give no level"),
    "wrong_password": ("yellow", "设备口令错误", "the device refuses our password"),
}
"""Severity and words, by the name of the device's event."""

OVER = {"board_recovered": "board_failed"}
"""Events that say that a trouble is over."""


class DeviceTrouble(Struct, frozen=True, forbid_unknown_fields=True):
    def judge_hall(self, day: HallDay) -> Iterator[Alert | AskAgain]:
        first: dict[tuple[str, str], tuple[Instant, str]] = {}
        over: dict[tuple[str, str], Instant | None] = {}
        for at, device, name, detail in sorted(day.device_events):
            if name in OVER:
                over[device, OVER[name]] = at
            elif name in TROUBLES:
                first.setdefault((device, name), (at, detail))
                over[device, name] = None
        names = {device.device: device.name for device in day.devices}
        past = day.as_of >= day.next_midnight
        if first and not past:
            yield AskAgain(day.next_midnight)
        for (device, name), (at, detail) in first.items():
            severity, zh, en = TROUBLES[name]
            ended = over[device, name]
            state = "resolved" if ended is not None else "expired" if past else "open"
            told = f": {detail}" if detail else ""
            yield Alert(
                id=stable_id("DEV-09", device, day.work_date, name),
                rule="device_trouble",
                code="DEV-06" if name in TAMPER else "DEV-09",
                subject_kind="device",
                subject=device,
                unit="",
                severity=SEVERITY[severity],
                opened_at=at,
                ends_at=ended if ended is not None else day.next_midnight if past else None,
                state=state,
                title=f"{zh}：{names.get(device) or device}{f'（{detail}）' if detail else ''}",
                detail=f"{device}: {en}{told}",
            )


RULE = DeviceTrouble
