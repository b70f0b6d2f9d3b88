"""Templates of other tools: a file that is one says what to render, and one that only holds signs of it does not."""

from __future__ import annotations

import pytest

from reconciler.manifests import Manifests
from reconciler.manifests.documents import read_file
from reconciler.model import Origin, Reason
from tests.desired.test_desired import RUNTIME, SERVICE

OPENSHIFT = """\
apiVersion: template.openshift.io/v1
kind: Template
metadata: {name: rhoai}
objects:
- apiVersion: serving.kserve.io/v1alpha1
  kind: ServingRuntime
  metadata: {name: vllm}
- {kind: Route, metadata: {name: r}}
parameters: []
"""


def with_argument(word: str) -> str:
    return RUNTIME.replace("    args:\n", f"    args:\n    - {word}\n")


def read(text: str, path: str = "chart/templates/chat.yaml") -> Manifests:
    return read_file(path, text.encode())


def told(found: Manifests) -> tuple[Reason, ...]:
    return (*found.errors, *found.notes, *found.warnings)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("{{- if .Values.on }}\n" + SERVICE + "{{- end }}\n", 1, "a Helm template that is not rendered"),
        (SERVICE.replace("name: chat", "name: {{ .Values.name }}"), 4, "commit what `helm template NAME chart` prints"),
        (SERVICE + "  {{- toYaml .Values.more | nindent 2 }}\n", SERVICE.count("\n") + 1, "a Helm template"),
        (SERVICE.replace("name: chat", 'name: {{ include "chat.name" . }}'), 4, "a Helm template"),
        (
            "{% if on %}\n" + SERVICE + "{% endif %}\n",
            1,
            "a Jinja template that is not rendered: commit what Jinja makes",
        ),
        (SERVICE.replace("name: chat", "name: {{ name }}"), 4, "a Jinja template"),
        (SERVICE.replace("name: chat", "name: <%= name %>\n  <%= x"), 4, "an ERB template"),
    ],
)
def test_template_that_is_no_yaml_says_what_to_render(text: str, line: int, message: str) -> None:
    (found,) = told(read(text))
    assert message in found.message
    assert (found.code, found.origin) == ("TemplateNotRendered", Origin("chart/templates/chat.yaml", line))
    assert read(text).unreadable[0].may_hide_services


@pytest.mark.parametrize(
    "text",
    [
        RUNTIME + "  x: [\n",
        with_argument("--served-model-name={{.Name}}") + "  x: [\n",
        with_argument('"--chat-template={% for m in messages %}{{ m }}{% endfor %}"').partition("  volumes")[0]
        + "    x: [\n",
        SERVICE + "x: [\n",
    ],
)
def test_broken_yaml_beside_placeholders_of_the_engine_stays_broken_yaml(text: str) -> None:
    (found,) = read(text).errors
    assert found.code != "TemplateNotRendered"
    assert "is not YAML" in found.message


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (SERVICE.replace("name: chat", "name: ${NAME}"), 4, "${NAME} is not filled in: commit what `envsubst <"),
        (
            SERVICE.replace("name: chat", 'name: "{{ .Values.name }}"'),
            4,
            "is not filled in: commit what `helm template",
        ),
        (SERVICE.replace("name: chat", "name: chat\n  namespace: ${NS}"), 5, "${NS} is not filled in"),
    ],
)
def test_name_that_is_not_filled_in_says_so(text: str, line: int, message: str) -> None:
    (found,) = read(text).errors
    assert message in found.message
    assert found.origin == Origin("chart/templates/chat.yaml", line)


def test_fields_that_are_not_filled_in_are_warned_about_with_their_lines() -> None:
    text = SERVICE.replace("runtime: vllm", "runtime: ${RUNTIME}") + '      env: [{name: A, value: "${B}"}]\n'
    found = read(text)
    (warning,) = found.warnings
    assert warning.message.startswith(
        "spec.predictor.model.runtime: ${RUNTIME} is not filled in: commit what `envsubst"
    )
    assert warning.origin
    assert text.splitlines()[warning.origin.line - 1].strip() == "runtime: ${RUNTIME}"
    assert not read(f"{with_argument('--name={{.Name}}')}---\n{with_argument('--x={{ messages }}')}").warnings
    (warning,) = read(with_argument("--max-model-len={{ .Values.length }}")).warnings
    assert "args" in warning.message
    assert "helm template" in warning.message


def test_openshift_template_names_its_objects_and_what_to_run() -> None:
    found = read(OPENSHIFT, "t.yaml")
    (note,) = found.notes
    assert note.message == (
        "Template rhoai (template.openshift.io/v1) is not rendered here and holds ServingRuntime vllm; "
        "commit what `oc process --local -f t.yaml -o yaml` prints"
    )
    assert [(each["kind"], place, holder) for each, place, holder in found.templated] == [
        ("ServingRuntime", "t.yaml:5", "Template rhoai")
    ]
    assert not found.documents


def test_release_of_a_chart_says_what_to_commit() -> None:
    (note,) = read("apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {name: vllm}\n").notes
    assert note.message.endswith("ignored: a chart is not rendered here; commit what `helm template` prints")
