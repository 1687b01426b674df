"""An RTSP server for the tests of the video driver; for the system's Python, which has GStreamer.

    rtsp_server.py {"/live": "/tmp/a.mp4", ...} [user password basic|digest [port]]

Each path plays a file (mp4, mkv) to each client from its beginning.  Prints its port when it is
ready, and ends with its standard input.
"""

from __future__ import annotations

import json
import sys
import threading

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

PAYS = {
    "h264": "h264parse ! rtph264pay name=pay0 pt=96 config-interval=-1",
    "h265": "h265parse ! rtph265pay name=pay0 pt=96 config-interval=-1",
    "jpeg": "jpegparse ! rtpjpegpay name=pay0 pt=26",
}


def main() -> None:
    Gst.init(None)
    files = json.loads(sys.argv[1])
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(sys.argv[5] if len(sys.argv) > 5 else "0")
    role = None
    if len(sys.argv) > 4 and sys.argv[2]:
        user, password, method = sys.argv[2:5]
        auth = GstRtspServer.RTSPAuth()
        token = GstRtspServer.RTSPToken()
        role = "viewer"
        token.set_string("media.factory.role", role)
        if method == "basic":
            auth.set_supported_methods(GstRtsp.RTSPAuthMethod.BASIC)
            auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
        else:
            auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
            auth.add_digest(user, password, token)
        server.set_auth(auth)
    for path, file in files.items():
        codec = next((name for name in PAYS if f".{name}." in file), "h264")
        demux = "matroskademux" if file.endswith(".mkv") else "qtdemux"
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(f"( filesrc location={file} ! {demux} ! {PAYS[codec]} )")
        factory.set_shared(False)
        if role:
            permissions = GstRtspServer.RTSPPermissions()
            for name in ("media.factory.access", "media.factory.construct"):
                permissions.add_permission_for_role(role, name, True)
            factory.set_permissions(permissions)
        server.get_mount_points().add_factory(path, factory)
    server.attach(None)
    print(server.get_bound_port(), flush=True)
    loop = GLib.MainLoop()
    threading.Thread(target=lambda: (sys.stdin.read(), loop.quit()), daemon=True).start()
    loop.run()


main()
