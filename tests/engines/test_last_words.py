"""What a status shows of an engine's log: the one message, with its paths and what stands behind its colons."""

from __future__ import annotations

import pytest

from reconciler.engines.last_words import LONGEST, fatal_reason
from reconciler.engines.preflight_program.preflight_text import shorten
from reconciler.report.redact import scrub_text

ENGINE = "(EngineCore pid=7) ERROR 11-22 20:32:32 [core.py:1510] "
OOM = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB, 1.19 GiB is free. "
    "If reserved but unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid "
    "fragmentation. See documentation (https://pytorch.org/docs/stable/notes/cuda.html#environment-variables)"
)
GATED = """\
OSError: You are trying to access a gated repo.
Make sure to have access to it at https://huggingface.co/meta-llama/Llama-3.1-8B.
401 Client Error. (Request ID: Root=1-67;2e)

Cannot access gated repo for url https://huggingface.co/meta-llama/Llama-3.1-8B/resolve/main/config.json.
(APIServer pid=3) INFO 11-22 20:32:33 [launcher.py:38] something else"""
STATE = f"""\
{ENGINE}RuntimeError: Error(s) in loading state_dict for LlamaForCausalLM:
(APIServer pid=3) DEBUG of another process
{ENGINE}\tMissing key(s) in state_dict: "lm_head.weight".
{ENGINE}\tsize mismatch for model.norm.weight: shape torch.Size([32]) in /mnt/models/model.safetensors.
(APIServer pid=3) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{}}"""
ASSERTION = """\
Traceback (most recent call last):
  File "/opt/vllm/model_executor/models/llama.py", line 512, in load_weights
    assert param.size() == loaded.size()
           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
AssertionError"""
TEMPLATE = """\
  File "/opt/jinja2/loaders.py", line 209, in get_source
    raise TemplateNotFound(template)
jinja2.exceptions.TemplateNotFound: /mnt/models/x.jinja"""
VALIDATION = """\
pydantic_core._pydantic_core.ValidationError: 1 validation error for SpeculativeConfig
method
  Input should be 'ngram' or 'eagle' [type=literal_error, input_value='zzz', input_type=str]
    For further information visit https://errors.pydantic.dev"""
RANK = """\
[rank0]: torch.AcceleratorError: CUDA error: no kernel image is available for execution on the device
[rank0]: CUDA kernel errors might be asynchronously reported at some other API call
[rank0]:[W1122 20:32:33.1 ProcessGroupNCCL.cpp:1] Warning: destroy_process_group() has not been called"""
ABORT = """\
terminate called after throwing an instance of 'c10::Error'
  what():  CUDA error: initialization error: /dev/nvidia0
INFO 11-22 20:32:33 [launcher.py:38] bye"""

SHOWN = [
    (f"{ENGINE}torch.OutOfMemoryError: {OOM}", f"OutOfMemoryError: {OOM}"),
    (
        "FileNotFoundError: [Errno 2] No such file or directory: '/mnt/models/model-00001-of-00004.safetensors'",
        "FileNotFoundError: [Errno 2] No such file or directory: '/mnt/models/model-00001-of-00004.safetensors'",
    ),
    (f"{ENGINE}KeyError: 'layers.0.qkv_proj.weight_scale'", "KeyError: 'layers.0.qkv_proj.weight_scale'"),
    (
        GATED,
        "OSError: You are trying to access a gated repo. Make sure to have access to it at "
        "https://huggingface.co/meta-llama/Llama-3.1-8B. 401 Client Error. (Request ID: Root=1-67;2e) Cannot access "
        "gated repo for url https://huggingface.co/meta-llama/Llama-3.1-8B/resolve/main/config.json.",
    ),
    (
        STATE,
        "RuntimeError: Error(s) in loading state_dict for LlamaForCausalLM: Missing key(s) in state_dict: "
        '"lm_head.weight". '
        "size mismatch for model.norm.weight: shape torch.Size([32]) in /mnt/models/model.safetensors.",
    ),
    (
        ASSERTION,
        "AssertionError in load_weights (/opt/vllm/model_executor/models/llama.py:512): "
        "assert param.size() == loaded.size()",
    ),
    (TEMPLATE, "TemplateNotFound: /mnt/models/x.jinja"),
    (VALIDATION, "method: Input should be 'ngram' or 'eagle'"),
    (RANK, "AcceleratorError: CUDA error: no kernel image is available for execution on the device"),
    (ABORT, "what():  CUDA error: initialization error: /dev/nvidia0"),
    (
        "OSError: /opt/venv/lib/torch/lib/libtorch_cuda.so: undefined symbol: ncclCommRegister",
        "OSError: /opt/venv/lib/torch/lib/libtorch_cuda.so: undefined symbol: ncclCommRegister",
    ),
    (
        "Exception: Failed to load tokenizer: /mnt/models/tokenizer.json: expected value at line 1 column 1",
        "Exception: Failed to load tokenizer: /mnt/models/tokenizer.json: expected value at line 1 column 1",
    ),
    (
        "ValueError: pad_token: <pad> is not in /mnt/models/tokenizer.json",
        "ValueError: pad_token: <pad> is not in /mnt/models/tokenizer.json",
    ),
    (
        "OSError: cannot read /run/secrets/api-key: Permission denied",
        "OSError: cannot read /run/secrets/api-key: Permission denied",
    ),
    ("ValueError: hf_token: expected a string, got None", "ValueError: hf_token: expected a string, got None"),
    ("RuntimeError: private_key: /etc/ssl/key.pem: no key", "RuntimeError: private_key: /etc/ssl/key.pem: no key"),
    ("ValueError: Basic /mnt/models/config.json failed", "ValueError: Basic /mnt/models/config.json failed"),
    ("/usr/bin/python3: No module named vllm", "/usr/bin/python3: No module named vllm"),
    ("/bin/sh: 1: vllm: not found", "/bin/sh: 1: vllm: not found"),
    ("Fatal Python error: Segmentation fault\n\nThread 0x7", "Fatal Python error: Segmentation fault"),
]

HIDDEN = [
    (
        "ValueError: https://user:pw@host/x?token=abcdefghijkl failed with HF_TOKEN=hf_abcdefghijklmnopqrst: 401",
        "ValueError: https://***@host/x?token=*** failed with HF_TOKEN=***: 401",
    ),
    ("ValueError: password: hunter2horse is wrong", "ValueError: password: *** is wrong"),
    ("ValueError: api_key: /9j/4AAQSkZJRg== is wrong", "ValueError: api_key: *** is wrong"),
    ("ValueError: secret='/mnt/x'", "ValueError: secret='***'"),
    ("ValueError: Authorization: Bearer abc123DEF456 refused", "ValueError: Authorization: Bearer *** refused"),
    ("ValueError: https://host/api-key=abcdef", "ValueError: https://host/api-key=***"),
]


@pytest.mark.parametrize(("log", "shown"), [*SHOWN, *HIDDEN])
def test_last_words_keep_paths_and_details_but_no_secret(log: str, shown: str) -> None:
    assert scrub_text(fatal_reason(log.splitlines()) or "") == shown


def test_log_without_a_reason_has_none() -> None:
    assert fatal_reason([]) is None
    assert fatal_reason(["INFO all is well", "Found ulimit: OSError: [Errno 24]"]) is None


def test_root_cause_is_chosen_over_the_consequence() -> None:
    log = [
        f"{ENGINE}Traceback (most recent call last):",
        f"{ENGINE}torch.OutOfMemoryError: CUDA out of memory. Tried 2",
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
    ]
    assert fatal_reason(log) == "OutOfMemoryError: CUDA out of memory. Tried 2"


def test_long_message_ends_at_a_word_and_follows_only_its_process() -> None:
    log = [f"ValueError: {'word ' * 200}", "(EngineCore pid=7) of another process"]
    found = fatal_reason(log) or ""
    assert LONGEST - 10 < len(found) <= LONGEST + 2
    assert found.endswith("word …")
    assert len(fatal_reason(["ValueError: a:", *("b" * 500 for _ in range(1000))]) or "") <= LONGEST + 2


def test_shortened_complaint_keeps_what_follows_an_early_sentence() -> None:
    text = f"Invalid model. Cannot read {'deep/' * 40}config.json: no such file, and {'more ' * 40}"
    assert "config.json: no such file" in shorten(text)
    assert len(shorten(text)) <= 302
