"""Starting the app: Streamlit with the settings that it needs, and the reports beside it."""

import ipaddress
import socket
import sys
from pathlib import Path
from typing import Any

from nnkit.app import shelf, uploads
from nnkit.errors import UsageError

ADDRESS, PORT = "127.0.0.1", 8501
_SCRIPT = Path(__file__).with_name("script.py")

# A report comes from a run folder, which may be a stranger's: it may show itself, and nothing else. The sandbox takes
# its origin away, so that no script in it could reach the app, even if scripts were allowed.
_REPORT_HEADERS = {
    "Content-Security-Policy": "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def serve(run: str | None = None, address: str = ADDRESS, port: int = PORT) -> None:
    """Serve the app until Ctrl-C or SIGTERM.

    Parameters
    ----------
    run : str, optional
        The run folder to begin with, or its name in `./runs`; the newest if not given.
    address : str, default "127.0.0.1"
        Where to listen: by default, only this machine can reach the app.
    port : int, default 8501

    Raises
    ------
    ImportError
        Streamlit is not installed.
    UsageError, CheckpointError
        There is no such run, or its model cannot be read.
    OSError
        The address cannot be listened at.
    """
    try:
        import streamlit
    except ImportError as error:
        raise ImportError("the app needs Streamlit; install it with: pip install 'nnkit[app]'") from error
    folder = None if run is None else shelf.find_run(run)
    _check_address(address, port)

    def own_up(error: Exception) -> bool:
        """Say that the fault is the app's, in place of Streamlit's own words; the terminal has it all."""
        streamlit.error("Something went wrong here. What it was is in the terminal where the app was started.")
        return True

    app = streamlit.App(_SCRIPT, routes=_report_routes(folder), middleware=_middleware(address), on_script_error=own_up)
    # Streamlit passes these on to the script, and makes the first one's folder importable.
    sys.argv = [str(_SCRIPT), *([] if folder is None else [str(folder.resolve())])]
    shown = "localhost" if address in ("0.0.0.0", "::", ADDRESS) else address
    print(f"nnkit app: http://{f'[{shown}]' if ':' in shown else shown}:{port}  (Ctrl-C ends it)", flush=True)
    app.run(config=_settings(address, port))


def _settings(address: str, port: int) -> dict[str, Any]:
    """Return Streamlit's settings; those given here count more than the user's own files."""
    return {
        "server.address": address,
        "server.port": port,
        "server.headless": True,
        "server.fileWatcherType": "none",
        "server.runOnSave": False,
        "server.enableCORS": True,  # which refuses other pages' requests, for all that it is called
        "server.enableXsrfProtection": True,
        "server.enableStaticServing": False,
        "server.enableAgentApi": False,
        "server.maxUploadSize": uploads.MAX_MEGABYTES,
        "browser.gatherUsageStats": False,
        "logger.hideWelcomeMessage": True,  # to find out what to print there, it would ask a server for our address
        "client.showErrorDetails": "none",
        "client.toolbarMode": "minimal",
        "client.allowedOrigins": [],
        "runner.magicEnabled": False,
        "theme.light.primaryColor": "#0072B2",
        "theme.dark.primaryColor": "#56B4E9",
    }


def _check_address(address: str, port: int) -> None:
    """Raise if nobody can listen there, in one line and before anything is started."""
    if not 1 <= port <= 65535:
        raise UsageError(f"--port: expected a number from 1 to 65535, got {port}")
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"cannot listen at {address}, port {port}: {reason}; try another --port or --address") from None


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _middleware(address: str) -> list[Any]:
    """Return what refuses requests for other hosts, where only this machine is served.

    Otherwise, a page from elsewhere whose name is made to point to this machine would be let in.
    """
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    if not _is_loopback(address) or ":" in address:  # in which case, there is no telling what it is called
        return []
    hosts = list({"localhost", "127.0.0.1", address})
    return [Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)]


def _report_routes(folder: Path | None) -> list[Any]:
    """Return the address of the reports; a name is looked up among the runs, and never made a path of."""
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response
    from starlette.routing import Route

    def report(request: Request) -> Response:
        run = shelf.list_runs(folder).get(request.path_params["name"])
        content = None if run is None else run.report()
        if content is None:
            return PlainTextResponse("There is no such report.", status_code=404, headers=_REPORT_HEADERS)
        return Response(content, media_type="text/html", headers=_REPORT_HEADERS)

    return [Route(shelf.REPORTS + "{name}", report, methods=["GET"])]
