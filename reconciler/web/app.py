"""Everything on the daemon's port: what monitoring asks, webhooks, logins, pages, and what guards them."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.types import ASGIApp

from reconciler.config.settings import Settings
from reconciler.web.control import Control
from reconciler.web.gate import Gate
from reconciler.web.login.credentials import Credentials, StaticTokens
from reconciler.web.login.logins import Logins
from reconciler.web.login.routes import login_routes
from reconciler.web.login.sessions import Sessions
from reconciler.web.metrics import Metrics
from reconciler.web.monitoring import monitoring_routes
from reconciler.web.pages.actions import action_routes
from reconciler.web.pages.live import Live
from reconciler.web.pages.notices import Notices
from reconciler.web.pages.routes import failed, not_found, page_routes
from reconciler.web.security import PageSecurity
from reconciler.web.webhooks.routes import webhook_routes


def public_app(control: Control, metrics: Metrics, settings: Settings, live: Live, sessions: Sessions) -> ASGIApp:
    """Everything that strangers can reach."""
    # Without a pass of the loop for so long, the daemon counts as stuck.
    max_heartbeat_age = max(60.0, 3 * settings.resync)
    tokens, notices = StaticTokens(settings.web.auth.tokens), Notices()
    app = Starlette(
        routes=[
            *monitoring_routes(control, metrics, "https" if settings.web.tls else "http", max_heartbeat_age),
            *webhook_routes(settings, control, metrics),
            *login_routes(settings, Logins(settings, sessions, live.end_session), tokens),
            *page_routes(control, live),
            *action_routes(control, notices, settings.web.auth.is_used),
        ],
        exception_handlers={404: not_found, Exception: failed},
    )
    # A redirect would lead to http, also where a proxy in front speaks TLS.
    app.router.redirect_slashes = False
    app.state.max_heartbeat_age, app.state.notices = max_heartbeat_age, notices
    return PageSecurity(Gate(app, settings, Credentials(settings, sessions, tokens)), settings.web)
