"""What the reconciler does about each reason, and what you do: for the table in `deploy/TROUBLESHOOTING.md`."""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.model import ReasonCode as R

# What the reconciler does.
NOT_READ = "does not read it"
KEEPS = "keeps what came from there, deletes nothing of it"
SKIPS = "leaves it out; the rest of the file counts"
WARNS = "warns, and goes on"
UNUSABLE = "keeps what runs of the service, changes nothing of it"
BLOCKS = "starts nothing of the service; what serves keeps serving; checks again in every pass"
REJECTS = "rejects the digest; the last good version keeps serving, or comes back"
WAITS = "waits, and starts once there is enough"
REFETCHES = "keeps what is fetched, retries with backoff"
ASKS_AGAIN = "touches nothing, asks again every few minutes"
ON_CLUSTER = "nothing: `validate` says it about a cluster"
SECRET_LEFT_OUT = "does not use the Secret; services that need it are blocked"
ON_CLUSTER_WAITS = "waits for the cluster; the version before keeps serving; rejects nothing"
CLUSTER_REJECTS = "before promotion the version is rejected, and the last good one comes back"
REPLACES = "ends the replica and starts another one; before promotion the digest is rejected"

Help = tuple[str, str]

HELP: Mapping[str, Mapping[R, Help]] = {
    "Files and folders in git": {
        R.EMPTY_FILE: (NOT_READ, "nothing; if services were in it, they are deleted"),
        R.FILE_IGNORED: (NOT_READ, "nothing, or correct the ignore file"),
        R.FILE_TOO_LARGE: (KEEPS, "split the file, or raise `source.max_file_bytes`"),
        R.FOLDER_TOO_LARGE: (KEEPS, "name smaller folders in `targets[].paths`, or take files out"),
        R.HIDDEN: (NOT_READ, "rename it if it is a manifest"),
        R.INVALID_IGNORE_FILE: ("reads nothing of its folder; " + KEEPS, "correct the line"),
        R.INVALID_PATH: (KEEPS, "rename the file"),
        R.MISNAMED_MANIFEST: (NOT_READ, "give it a name that ends in `.yaml`, `.yml` or `.json`"),
        R.NO_FILES: ("nothing: only `validate` says it", "name a folder with manifests"),
        R.NOT_A_MANIFEST: (NOT_READ, "nothing, or add `apiVersion` and `kind`"),
        R.NOT_A_REGULAR_FILE: (NOT_READ, "put a file or folder there"),
        R.NOT_TEXT: (KEEPS, "save the file as UTF-8"),
        R.PATH_NOT_FOUND: (KEEPS, "restore the folder, or correct `targets[].paths`"),
        R.SUBMODULE: (KEEPS, "put its files there, or give it a source of its own"),
        R.SYMLINK: (KEEPS, "put the file or folder itself there"),
        R.UNREADABLE: (KEEPS, "correct what the message names"),
        R.UNRESOLVED_FILE: (
            KEEPS,
            "commit the file itself: unlock git-crypt, take it out of Git LFS, resolve the merge",
        ),
    },
    "Documents in git": {
        R.AMBIGUOUS_SCALAR: (WARNS, "put the value in quotes if it is text"),
        R.DEPENDENCY_UNREADABLE: (UNUSABLE, "correct what cannot be read"),
        R.DOCUMENT_NOT_ALLOWED: (
            "uses it for no service",
            "move it, or allow its namespace in `targets[].secrets.folders`",
        ),
        R.DUPLICATE_KEY: (KEEPS, "remove one of the keys"),
        R.DUPLICATE_OBJECT: (UNUSABLE, "keep one of the documents"),
        R.INCOMPLETE_MANIFEST: (KEEPS, "add what the message names"),
        R.INVALID_DEPENDENCY: (
            "does not apply it; the rest goes on",
            "correct its annotation `config.kubernetes.io/depends-on`",
        ),
        R.INVALID_DOCUMENT: (UNUSABLE, "correct the field; `reconciler validate` finds it before the push"),
        R.INVALID_NAME: (KEEPS, "rename the service"),
        R.INVALID_YAML: (KEEPS, "correct the line"),
        R.TEMPLATE_NOT_RENDERED: (
            KEEPS + "; warns of a single value",
            "render the template before you commit it, for example with `helm template`",
        ),
        R.TOO_DEEP: (KEEPS, "nest it less deeply"),
        R.TOO_MANY_ALIASES: (KEEPS, "write the values out"),
        R.TOO_MANY_DOCUMENTS: (KEEPS, "split the file"),
        R.TOO_MANY_VALUES: (KEEPS, "split the file, or use fewer aliases"),
        R.UNKNOWN_KIND: (NOT_READ, "nothing, or correct `kind` or `apiVersion`"),
        R.UNKNOWN_TAG: (KEEPS, "remove the tag"),
        R.UNSUPPORTED_KIND: (NOT_READ, "run it on a cluster, or remove it"),
    },
    "Kustomize": {
        R.INVALID_KUSTOMIZATION: (KEEPS, "correct the line"),
        R.KUSTOMIZATION_LISTS_FILES: ("reads the listed files as they are", "nothing; install kustomize to build it"),
        R.KUSTOMIZATION_NOT_BUILT: (KEEPS, "correct what the message names, or install kustomize"),
        R.NOT_IN_KUSTOMIZATION: (NOT_READ, "add it to `resources`"),
        R.PART_OF_KUSTOMIZATION: (NOT_READ, "validate the folder of the kustomization instead"),
    },
    "The target": {
        R.CORDONED: ("keeps what is promoted, starts nothing new", "remove `unschedulable` from `host.yaml`"),
        R.DRAINED: (
            "drains and stops everything on the target",
            "remove `drain` from `host.yaml`, or `reconciler host undrain`",
        ),
        R.DUPLICATE_HOST: ("follows neither of them", "keep one Host document"),
        R.HOST_DOCUMENT_IGNORED: ("does not follow it", "move it to the target's own `host.yaml`"),
        R.HOST_NAME_MISMATCH: (WARNS, "correct `metadata.name`, or the target's name in the config"),
        R.INVALID_HOST: ("keeps to what the file said last, deletes nothing", "correct the field"),
        R.NO_LONGER_DRAINS: ("keeps what runs running", "add `drain: true` to drain the host, else `drain: false`"),
        R.NOT_PRUNABLE: ("deletes nothing on the target", "restore `host.yaml` in the target's folder"),
        R.TARGET_REMOVED: ("drains and removes what runs there", "put the target back into the config to keep it"),
        R.TARGET_UNREACHABLE: ("changes nothing there; what serves keeps serving", "see what the message names"),
    },
    "Secrets": {
        R.INVALID_SECRET: (SECRET_LEFT_OUT, "correct the field"),
        R.NO_DECRYPTION_KEY: (SECRET_LEFT_OUT, "give the host the key: `targets[].secrets.age_key_file`"),
        R.NOT_A_SECRET: ("does not read it", "put it into git, and only Secrets into this folder"),
        R.PLAINTEXT_SECRET: (
            SECRET_LEFT_OUT + "; warns of an argument or variable",
            "encrypt it with SOPS and change its values: git keeps the old ones",
        ),
        R.SECRET_NOT_ALLOWED: (SECRET_LEFT_OUT, "move it, or allow its namespace in `targets[].secrets.folders`"),
        R.SECRET_NOT_FOUND: (BLOCKS, "add the Secret or the key; the message says where"),
        R.SECRET_SHADOWED: ("uses the other one", "remove one of them"),
        R.SECRETS_UNREADABLE: (BLOCKS, "see to the file or folder that the message names"),
        R.TAMPERED_SECRET: (SECRET_LEFT_OUT, "find out who changed it; encrypt it again"),
        R.WRONG_DECRYPTION_KEY: (SECRET_LEFT_OUT, "add the host's key: `sops rotate -i --add-age RECIPIENT FILE`"),
    },
    "Fields of a service that are refused": {
        R.ADMISSION_DENIED: (UNUSABLE, "correct the field"),
        R.FAILED_CREATE: (UNUSABLE, "correct what the message names"),
        R.INVALID_ANNOTATION: (UNUSABLE, "correct the value"),
        R.INVALID_FIELD: (UNUSABLE, "correct the value"),
        R.INVALID_PLACEMENT: (UNUSABLE, "correct the rule"),
        R.INVALID_PREDICTOR_SPEC: (UNUSABLE, "correct the predictor, or its runtime"),
        R.INVALID_QUANTITY: (UNUSABLE, "write a quantity as Kubernetes does, for example `500m` or `16Gi`"),
        R.INVALID_STORAGE: (UNUSABLE, "write one `storageUri`, or one `storage`"),
        R.INVALID_VOLUME: (UNUSABLE, "correct the volume or its mount"),
        R.INVALID_WORKER_SPEC: (UNUSABLE, "run the service on a cluster, with a runtime that has a `workerSpec`"),
        R.MODEL_MESH: (UNUSABLE, "use deployment mode Standard"),
        R.NO_AUTH: (UNUSABLE, "give the engine a key by `VLLM_API_KEY` from a Secret, or remove the annotation"),
        R.NO_SUPPORTING_RUNTIME: (UNUSABLE, "add a runtime for the model's format, or name one"),
        R.RECONCILE_FAILED: (UNUSABLE, "correct what the message names"),
        R.RUNTIME_DISABLED: (UNUSABLE, "enable the runtime, or name another"),
        R.RUNTIME_NOT_RECOGNIZED: (UNUSABLE, "add the runtime, or correct its name"),
        R.SERVERLESS_MODE_REJECTED: (ON_CLUSTER, "use deployment mode Standard"),
        R.SPEC_TOO_LARGE: (UNUSABLE, "put large values into files that come with the model"),
        R.UNSUPPORTED_FIELD: (
            UNUSABLE + "; a variable that needs it blocks the service",
            "remove it, or run the service on a cluster",
        ),
    },
    "Fields of a service that mean something else here": {
        R.ACCELERATOR_MISMATCH: (WARNS, "check that the service belongs on this host"),
        R.AMBIGUOUS_DISPLAY_NAME: ("uses the first", "name the runtime by its own name"),
        R.AMBIGUOUS_HOST: ("answers 404 for the host name", "use the services' paths, or rename one"),
        R.AMBIGUOUS_MODEL: (
            "answers 404 for the model name alone",
            "write the service's whole name as `model`, or rename one",
        ),
        R.CANARY_UNCHANGED: ("runs nothing for the canary", "change the canary, or remove it"),
        R.CONTAINER_IGNORED: (
            "runs the model's container only",
            "remove the container, or run the service on a cluster",
        ),
        R.DEVELOPER_MODE: (
            "refuses these paths in the proxy",
            "remove the variable: programs of the host reach the engine",
        ),
        R.DRAIN_ADDED: (
            "adds them when the service rolls next",
            'nothing; annotation `reconciler/drain: "false"` leaves them out',
        ),
        R.DRAIN_CUT_SHORT: (WARNS, "change what the message names"),
        R.FIELD_IGNORED: ("runs the service without it", "remove the field, or do as the message says"),
        R.FINDINGS_OMITTED: ("shows the first ones", "correct those; the others follow"),
        R.NEWER_VERSION_REQUIRED: (WARNS, "nothing on a host; a cluster needs that version"),
        R.NO_AUTOSCALING: ("runs `minReplicas` replicas", "set `minReplicas` to what you need"),
        R.NO_EFFECT: ("does as the message says", "nothing"),
        R.NO_SCALE_TO_ZERO: ("runs one replica", 'stop the service with `serving.kserve.io/stop: "true"` instead'),
        R.NOT_FOR_THIS_HOST: (
            "runs nothing of it here; what ran is drained",
            "nothing, or correct labels, taints or affinity",
        ),
        R.NOT_SCRAPED: ("publishes no scrape target", "remove the annotation, or name the engine's port"),
        R.OPENSHIFT_AI: (WARNS, "do as the message says"),
        R.PORT_MISMATCH: ("uses the leased port", "remove the port from the arguments, or let both agree"),
        R.PORT_PROTOCOL_MISMATCH: (WARNS, "rename the port, or add `--grpc`"),
        R.STOPPED: ("stops the service", "remove the annotation to run it"),
        R.UNKNOWN_ANNOTATION: ("ignores it", "correct its name"),
        R.VOLUME_IGNORED: ("runs the service without the volume", "use a kind of volume that hosts provide"),
    },
    "The engine and its arguments": {
        R.ARGUMENT_LIST_TOO_LONG: (BLOCKS, "put large values into files that come with the model"),
        R.CANNOT_START: (
            "the last good version keeps serving, or comes back; retries with backoff",
            "correct what the message names",
        ),
        R.ENGINE_BROKEN: (BLOCKS, "repair the engine's installation, or correct `targets[].engines`"),
        R.FILE_DAMAGED: (REJECTS, "repair the file; it is tried again by itself"),
        R.FILE_NOT_FOUND: (REJECTS, "add the file; it is tried again by itself"),
        R.FILE_UNREADABLE: (BLOCKS, "see to the file's mode, its folders and its disk"),
        R.GPU_SHARE_EXCEEDED: (BLOCKS, "lower `--gpu-memory-utilization`, or raise the share"),
        R.IMAGE_UNKNOWN: (WARNS, "check that the image is a vLLM server's"),
        R.INVALID_ARGUMENT: (REJECTS, "correct the argument; the message suggests one"),
        R.INVALID_VARIABLE: (
            REJECTS + "; blocks if the value comes from a Secret",
            "shorten the value, or remove its NUL bytes",
        ),
        R.NO_ENGINE: (BLOCKS, "map the image to an interpreter or to podman in `targets[].engines`"),
        R.PODMAN_NOT_FOUND: (BLOCKS, "install podman"),
        R.PREFLIGHT_FAILED: (BLOCKS, "repair the installation, or the variable that the message names"),
        R.PREFLIGHT_PENDING: ("waits for the answer; what serves keeps serving", "wait"),
        R.SECRET_IN_ARGUMENT: (BLOCKS, "give the Secret as a variable that the engine reads itself"),
        R.UNSUPPORTED_ARGUMENT: (BLOCKS, "remove the argument"),
        R.UNSUPPORTED_COMMAND: (BLOCKS, "write `command: [vllm, serve]`, and the flags as `args`"),
        R.USER_NOT_FOUND: (BLOCKS, "create the user, or set `targets[].user`"),
    },
    "Models, images and their files": {
        R.ACCESS_DENIED: (ASKS_AGAIN, "correct the credentials"),
        R.CHECKSUM_MISMATCH: (REFETCHES, "nothing; if it lasts, upload the file again"),
        R.CLAIM_NOT_FOUND: (BLOCKS, "map the claim to a folder in `targets[].volumes`"),
        R.CONFIG_MAP_NOT_FOUND: (BLOCKS, "add the ConfigMap or the key to git"),
        R.DISK_FULL: ("stops and starts nothing that needs room; fetching resumes", "make room"),
        R.DOWNLOAD_INTERRUPTED: (REFETCHES, "nothing; if it lasts, read the log that the message names"),
        R.DOWNLOAD_STALLED: ("ends the download and resumes it", "nothing"),
        R.ENGINE_DOWNLOAD: (BLOCKS, "let `storageUri` name the model, as the message says"),
        R.FETCHER_NOT_STARTED: (REFETCHES, "correct what the message names"),
        R.FOLDER_UNREADABLE: (REJECTS, "grant access as the message says; it is tried again by itself"),
        R.IMAGE_PULL_FAILED: (ASKS_AGAIN, "correct the image's name, or the credentials in /etc/containers/auth.json"),
        R.INVALID_ARCHIVE: (ASKS_AGAIN, "upload the archive again"),
        R.INVALID_STORAGE_SETTINGS: (ASKS_AGAIN, "correct the Secret or the settings of the storage"),
        R.LIBRARY_NOT_INSTALLED: (ASKS_AGAIN, "install the library that the message names"),
        R.MODEL_LOAD_FAILED: (REJECTS, "read the service's own reason: KServe's status has only this one"),
        R.MODEL_NOT_FOUND: (REJECTS + "; at a source: " + ASKS_AGAIN, "put the model there, or correct its URI"),
        R.MOUNT_NOT_ALLOWED: (BLOCKS, "mount it at another path"),
        R.PATH_NOT_ALLOWED: (BLOCKS + "; a link that leads there is rejected", "keep models in a folder of their own"),
        R.SOURCE_CHANGED: (REFETCHES, "nothing"),
        R.SOURCE_FAILED: (REFETCHES, "nothing; if it lasts, ask who runs the source"),
        R.SOURCE_REFUSED: (ASKS_AGAIN, "correct the URI or the credentials"),
        R.SOURCE_UNREACHABLE: (REFETCHES, "see to the network, or to `targets[].storage.env` for a proxy"),
        R.STAGED_FILES_DELETED: ("fetches them again", "let nothing delete files from the models' folder"),
        R.STAGING: ("fetches, and starts when all is there", "wait"),
        R.STAGING_FAILED: (ASKS_AGAIN, "correct what the message names"),
        R.TOKEN_NOT_USED: (WARNS, "put the token into a Secret of the service account"),
        R.TOO_MANY_FILES: (ASKS_AGAIN, "name the model's own folder"),
        R.UNEXPECTED_CONTENT_TYPE: (ASKS_AGAIN, "correct the URI: it names a page, not a file"),
        R.UNSAFE_PATH: (ASKS_AGAIN, "use a model without such files"),
        R.UNSAFE_REDIRECT: (ASKS_AGAIN, "name the URI that it leads to"),
        R.UNSUPPORTED_STORAGE: (BLOCKS, "use a URI that the message lists"),
    },
    "Capacity": {
        R.DOES_NOT_FIT: (BLOCKS, "lower `--max-model-len`, use more GPUs, or a smaller model"),
        R.FOLDER_NOT_WRITABLE: ("starts nothing that needs the folder", "see to the folder's mode and its disk"),
        R.GPU_BUSY: ("waits until the other replica has started or stopped", "wait"),
        R.IDLE_GPUS: (WARNS, "set `--tensor-parallel-size`, or lower the limit"),
        R.INSUFFICIENT_ACCELERATOR: (WAITS, "stop a service, or ask for less"),
        R.INSUFFICIENT_CAPACITY: (WARNS, "move a service to another host, or ask for less"),
        R.INSUFFICIENT_CPU: (WAITS, "stop a service, or ask for less"),
        R.INSUFFICIENT_GPU: (WAITS, "stop a service, or ask for less"),
        R.INSUFFICIENT_GPU_MEMORY: (WAITS, "end the program that the message names, or wait for it"),
        R.INSUFFICIENT_MEMORY: (WAITS, "stop a service, or ask for less"),
        R.NO_FREE_PORT: (WAITS, "widen `targets[].ports`"),
        R.SHARED_MEMORY_FULL: (BLOCKS, "make room in /dev/shm, or enlarge it"),
        R.TOO_FEW_GPUS: (BLOCKS, "raise the limit of `nvidia.com/gpu`, or lower the parallel sizes"),
        R.TOO_MANY_DEVICES: (BLOCKS, "ask for one MIG device"),
    },
    "How a replica failed": {
        R.CRASHED: (REPLACES, "read `reconciler logs SERVICE`"),
        R.ENGINE_DEAD: (REPLACES, "read `reconciler logs SERVICE`"),
        R.HUNG: (REPLACES, "read `reconciler logs SERVICE`"),
        R.PORT_TAKEN: (
            "sends nothing there, and starts it with another port",
            "take `targets[].ports` out of other programs' range",
        ),
        R.PROGRESS_DEADLINE_EXCEEDED: (
            REJECTS,
            "read its logs; raise the target's `ready_timeout` if it only needs longer",
        ),
        R.SILENT: ("sends requests to the other replicas; replaces it if it stays so", "wait"),
        R.STOPPED_MANUALLY: ("starts another one", "stop a service in git, not by hand"),
    },
    "On a cluster": {
        R.AUTO_UPDATE_DISABLED: (
            "applies what git says; the version before keeps serving",
            "remove `serving.kserve.io/disable-auto-update`, or stop and start the service",
        ),
        R.CONTROLLER_SILENT: (ON_CLUSTER_WAITS, "see whether the controller runs, and read its log"),
        R.FAILED_MOUNT: (ON_CLUSTER_WAITS, "create or repair the volume that the message names"),
        R.MISSING: ("applies it, unless the plan says why not", "nothing"),
        R.OBJECT_FAILED: ("shows it, and goes on with what does not depend on it", "correct what the message names"),
        R.OOM_KILLED: (CLUSTER_REJECTS, "raise `resources.limits.memory`, or make the model need less"),
        R.QUOTA_EXCEEDED: (ON_CLUSTER_WAITS, "raise the ResourceQuota, or free what uses it"),
        R.UNREADABLE_STATUS: ("changes nothing of the object because of it", "see who wrote the field"),
        R.UNSCHEDULABLE: (
            ON_CLUSTER_WAITS,
            "read the scheduler's message: labels, taints, volumes or room of the nodes",
        ),
    },
    "State of a service": {
        R.ACTION_FAILED: ("retries with backoff; what serves keeps serving", "correct what the message names"),
        R.APPROVAL_REQUIRED: (
            "deletes nothing until it is approved; goes on with the rest",
            "`reconciler approve HASH` if it is meant, else restore it in git",
        ),
        R.BLOCKED: (BLOCKS, "see the reasons it lists"),
        R.CRASH_LOOP_BACKOFF: (
            "restarts them with growing pauses of up to 5 minutes",
            "read `reconciler logs SERVICE`",
        ),
        R.DELETING: ("drains and stops its replicas", "wait"),
        R.EVALUATION_FAILED: ("keeps everything as it is", "see the source's error in `reconciler status`"),
        R.HOST_FAILED: ("retries with backoff; the last good version comes back", "repair what the message names"),
        R.INTERNAL_ERROR: (
            "keeps what it concerns as it is, and goes on with the rest",
            "report the bug with the traceback of the log",
        ),
        R.MINIMUM_REPLICAS_UNAVAILABLE: ("starts the missing ones", "wait, or see `reconciler status SERVICE`"),
        R.NOT_SERVING: ("starts replicas if git asks for them", "see `reconciler status SERVICE`"),
        R.NOT_YET_OBSERVED: ("looks at it in its next pass", "wait"),
        R.PROGRESSING: ("goes on", "wait"),
        R.REJECTED: (REJECTS, "correct it in git; or `reconciler resume SERVICE` if the cause was outside"),
        R.SCALED_TO_ZERO: ("drains and stops its replicas", "raise `minReplicas` to run it"),
        R.SERVING: ("nothing", "nothing"),
        R.STOPS_SERVING: (WARNS, "add the service elsewhere in one commit, take it away here in the next"),
        R.SUSPENDED: ("shows plans, changes nothing", "`reconciler resume`"),
        R.UNKNOWN_REASON: ("goes on", "nothing"),
    },
}
