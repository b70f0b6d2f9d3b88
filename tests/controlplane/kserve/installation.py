"""KServe on the control plane of the tests, as far as it was seen."""

from __future__ import annotations

from types import TracebackType

from tests.controlplane.api import Api
from tests.controlplane.control_plane import ControlPlane
from tests.controlplane.kserve.controller import BETA, Controller, read_objects, service_at
from tests.controlplane.kserve.crds import install_crds
from tests.controlplane.kserve.webhooks import Webhooks

USER = "system:serviceaccount:kserve:kserve-controller-manager"


class KServe:
    """Its kinds, webhooks and controller, while the block runs; the kinds stay.

    `creates_ingress` as shipped; OpenShift AI sets disableIngressCreation. `progress_deadline` is the Deployments', in
    seconds.
    """

    def __init__(
        self, control_plane: ControlPlane, *, creates_ingress: bool = True, progress_deadline: int = 600
    ) -> None:
        self._api = Api(control_plane.user_kubeconfig(USER, "system:masters"), user_agent="kserve")
        self._webhooks = Webhooks(self._api, control_plane.authority, lambda place: read_objects(self._api, place))
        self._controller = Controller(self._api, creates_ingress=creates_ingress, progress_deadline=progress_deadline)

    def __enter__(self) -> KServe:
        install_crds(self._api)
        self._webhooks.start()
        self._controller.start()
        return self

    def wait_until_idle(self) -> None:
        """Until nothing has woken its controller for a while."""
        self._controller.wait_until_idle()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._controller.stop()
        self._webhooks.stop()
        # Nobody would let go of them any more, and their namespace would never end.
        for each in self._api.list(BETA, "InferenceService"):
            service = service_at(each["metadata"]["namespace"], each["metadata"]["name"])
            self._api.patch(service, {"metadata": {"finalizers": None}})
            self._api.delete(service)
