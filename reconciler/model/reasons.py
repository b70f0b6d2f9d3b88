"""Every reason there is, once: a code that scripts match, and what it means.

`deploy/TROUBLESHOOTING.md` says of each what the reconciler does about it and what you do.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class ReasonCode(StrEnum):
    """Why something is as it is: one CamelCase code."""

    _value_: str
    meaning: str

    def __new__(cls, code: str, meaning: str = "") -> ReasonCode:
        member = str.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    def __reduce_ex__(self, protocol: Any) -> tuple[type[ReasonCode], tuple[str]]:
        return ReasonCode, (self._value_,)

    @classmethod
    def read(cls, text: str) -> ReasonCode:
        """What a record on disk says, which another version may have written."""
        return cls(text) if text in cls._value2member_map_ else cls.UNKNOWN_REASON

    # What git says: files and folders
    BINARY_FILE = "BinaryFile", "the file is not text"
    EMPTY_FILE = "EmptyFile", "the file holds no document"
    FILE_TOO_LARGE = "FileTooLarge", "the file is larger than source.max_file_bytes"
    FOLDER_TOO_LARGE = "FolderTooLarge", "the folder holds more than a revision may bring"
    HIDDEN = "Hidden", "the name of the file, or of a folder above it, begins with a dot"
    INVALID_IGNORE = "InvalidIgnore", "a line of the ignore file cannot be understood"
    NO_FILES = "NoFiles", "the folder holds no file with a manifest's name"
    NOT_A_MANIFEST = "NotAManifest", "the file holds no Kubernetes object"
    NOT_A_MANIFEST_NAME = "NotAManifestName", "the file holds a manifest, but is not named like one"
    NOT_THE_FILE = "NotTheFile", "git-crypt, Git LFS or a merge left something else in place of the file"
    PATH_MISSING = "PathMissing", "a path of targets[].paths is not in the repository"
    PATH_OUTSIDE_REPOSITORY = "PathOutsideRepository", "the path leads out of the repository"
    PATH_TOO_LONG = "PathTooLong", "the path is too long"
    REFUSED = "Refused", "it is a link, a submodule or another thing that is not read"
    SUBMODULE = "Submodule", "it is a submodule, which is not fetched"
    SYMLINK = "Symlink", "it is a symbolic link, which is not followed"
    PATH_NOT_UTF8 = "PathNotUtf8", "the path is not UTF-8 text"
    UNPRINTABLE_PATH = "UnprintablePath", "the path holds characters that cannot be printed"
    UNREADABLE = "Unreadable", "it cannot be read, so what it may hold is not known"

    # What git says: documents
    AMBIGUOUS_SCALAR = "AmbiguousScalar", "a value without quotes means something else than text"
    DOCUMENT_NOT_ALLOWED = "DocumentNotAllowed", "the document may not be in this folder"
    DOCUMENT_REFUSED = "DocumentRefused", "a Kubernetes API server would refuse the document"
    DOCUMENT_UNCERTAIN = "DocumentUncertain", "a document that the service needs may be in what cannot be read"
    DUPLICATE = "Duplicate", "the object is written more than once"
    DUPLICATE_KEY = "DuplicateKey", "a key is written twice in one mapping"
    INCOMPLETE_MANIFEST = "IncompleteManifest", "the document lacks what every Kubernetes object has"
    INVALID_NAME = "InvalidName", "the name cannot be a service's"
    INVALID_YAML = "InvalidYaml", "the document is not valid YAML"
    NOT_RENDERED = "NotRendered", "it holds template text that nothing here renders"
    NOT_TEXT = "NotText", "the file is not UTF-8 text"
    RUNTIME_UNCERTAIN = "RuntimeUncertain", "what cannot be read may hold the runtime that the service would get"
    TOO_DEEP = "TooDeep", "the document is nested too deeply"
    TOO_LARGE = "TooLarge", "it is larger, or there are more of it, than is read"
    TOO_MANY_ALIASES = "TooManyAliases", "the document has too many YAML aliases"
    TOO_MANY_VALUES = "TooManyValues", "the documents together expand to too many values"
    UNKNOWN_KIND = "UnknownKind", "the document is of a kind that is not served"
    UNKNOWN_TAG = "UnknownTag", "the document has a YAML tag that is not allowed"
    UNSUPPORTED_KIND = "UnsupportedKind", "the document is of a kind of KServe that is not supported"

    # What git says: kustomize
    INVALID_KUSTOMIZATION = "InvalidKustomization", "the kustomization cannot be read"
    KUSTOMIZATION_LISTS_FILES = "KustomizationListsFiles", "the kustomization lists which files are read"
    KUSTOMIZATION_NOT_BUILT = "KustomizationNotBuilt", "the kustomization cannot be built"
    NOT_LISTED = "NotListed", "a kustomization beside the file does not list it"
    PART_OF_KUSTOMIZATION = "PartOfKustomization", "the file is part of a kustomization, not an object by itself"

    # The target's own document
    CORDONED = "Cordoned", "git lets nothing run on this target"
    DRAINED = "Drained", "a person drained this target by hand"
    DUPLICATE_HOST = "DuplicateHost", "the target has more than one Host document"
    HOST_ELSEWHERE = "HostElsewhere", "the Host document is not in the target's own file"
    HOST_NAME_MISMATCH = "HostNameMismatch", "the Host document names another host than the config"
    INVALID_HOST = "InvalidHost", "a field of the Host document cannot be used"
    NOT_PRUNABLE = "NotPrunable", "the target's own file is missing, so nothing is pruned"
    TARGET_REMOVED = "TargetRemoved", "the target was taken out of the config"

    # Secrets
    INVALID_SECRET = "InvalidSecret", "the Secret cannot be decoded"
    MISSING_SECRET = "MissingSecret", "a Secret, or a key of it, is not there"
    NO_AGE_KEY = "NoAgeKey", "the host has no age key to decrypt the Secret"
    NOT_A_SECRET = "NotASecret", "the document is not a Secret, and only Secrets are read there"
    PLAINTEXT_SECRET = "PlaintextSecret", "the Secret is in git without encryption"
    SECRET_NOT_ALLOWED = "SecretNotAllowed", "the Secret may not be in this folder"
    SECRET_SHADOWED = "SecretShadowed", "another Secret of the same name counts"
    SECRETS_UNREADABLE = "SecretsUnreadable", "a place of Secrets, or the age key, cannot be read"
    TAMPERED_SECRET = "TamperedSecret", "the Secret was changed after it was encrypted"
    WRONG_AGE_KEY = "WrongAgeKey", "the Secret is encrypted for other age keys"

    # The service's fields: refused
    FAILED_CREATE = "FailedCreate", "Kubernetes would refuse the pod"
    INVALID = "Invalid", "a Kubernetes API server would refuse the service's fields"
    INVALID_ANNOTATION = "InvalidAnnotation", "an annotation has a value that cannot be used"
    INVALID_FIELD = "InvalidField", "a field has a value that cannot be used"
    INVALID_PLACEMENT = "InvalidPlacement", "the rules for nodes cannot be used"
    INVALID_PREDICTOR_SPEC = "InvalidPredictorSpec", "the predictor cannot be built with its runtime"
    INVALID_QUANTITY = "InvalidQuantity", "a quantity of resources cannot be read"
    INVALID_SPEC = "InvalidSpec", "the service's documents cannot be used"
    INVALID_STORAGE = "InvalidStorage", "it is not clear where the model is"
    INVALID_VOLUME = "InvalidVolume", "a volume or its mount cannot be used"
    INVALID_WORKER_SPEC = "InvalidWorkerSpec", "the workerSpec cannot be used"
    MODEL_MESH = "ModelMesh", "the service is in mode ModelMesh, for which KServe deploys nothing"
    NO_AUTH = "NoAuth", "the service asks for authentication, and nothing would enforce it"
    NO_SUPPORTING_RUNTIME = "NoSupportingRuntime", "no runtime supports the model"
    NOT_ON_HOSTS = "NotOnHosts", "a host cannot honour the field"
    RECONCILE_FAILED = "ReconcileFailed", "KServe's controller would fail on the service"
    RUNTIME_DISABLED = "RuntimeDisabled", "the runtime is disabled"
    RUNTIME_NOT_RECOGNIZED = "RuntimeNotRecognized", "the runtime does not exist"
    SERVERLESS_MODE_REJECTED = "ServerlessModeRejected", "the service asks for Knative, which is not to be had"

    # The service's fields: honoured otherwise, or not
    ACCELERATOR_MISMATCH = "AcceleratorMismatch", "the host has none of the recommended accelerators"
    AMBIGUOUS_HOST = "AmbiguousHost", "a host name means more than one service"
    AMBIGUOUS_MODEL = "AmbiguousModel", "a model name means more than one service"
    CONTAINER_IGNORED = "ContainerIgnored", "a container beside the model's does not run on a host"
    DEVELOPER_MODE = "DeveloperMode", "vLLM's developer mode opens more paths than the proxy lets through"
    DISPLAY_NAME = "DisplayName", "several runtimes have the display name that is asked for"
    IGNORED = "Ignored", "it is not honoured here"
    LATER_VERSION = "LaterVersion", "the field needs a later version of KServe"
    MORE_FINDINGS = "MoreFindings", "there are more findings than are shown"
    NO_AUTOSCALING = "NoAutoscaling", "hosts do not scale by themselves"
    NO_EFFECT = "NoEffect", "the field has no effect here, and needs none"
    NO_SCALE_TO_ZERO = "NoScaleToZero", "hosts do not start replicas on demand"
    NOT_FOR_THIS_HOST = "NotForThisHost", "labels, taints or affinity send the service elsewhere"
    NOT_SCRAPED = "NotScraped", "no scrape target is published for the port"
    OPENSHIFT_AI = "OpenShiftAI", "OpenShift AI would do more with the annotation"
    OTHER_PORT = "OtherPort", "the engine is told another port than the container names"
    PORT_UNLIKE_SERVER = "PortUnlikeServer", "the container's port and the engine's protocol disagree"
    SAME_CANARY = "SameCanary", "the canary equals what it would run beside"
    STOPPED = "Stopped", "an annotation stops the service"
    UNKNOWN_ANNOTATION = "UnknownAnnotation", "there is no such annotation of ours"
    VOLUME_IGNORED = "VolumeIgnored", "a volume is not provided on a host"

    # The engine and its arguments
    CANNOT_START = "CannotStart", "the replica could not be started as it is asked for"
    ENGINE_BROKEN = "EngineBroken", "the engine cannot be run on this host"
    FIELD_UNSUPPORTED = "FieldUnsupported", "a host does not know the field of a pod that is asked for"
    FILE_CLOSED = "FileClosed", "an argument names a file that no service may read"
    FILE_DAMAGED = "FileDamaged", "a file that an argument names is damaged"
    FILE_MISSING = "FileMissing", "a file that is needed is not there"
    FILE_UNKNOWN = "FileUnknown", "a file that an argument names could not be looked at"
    GPU_SHARE_EXCEEDED = "GPUShareExceeded", "the engine is told to take more of its GPU than its share"
    IMAGE_UNKNOWN = "ImageUnknown", "it is not clear whether the image is vLLM"
    INVALID_ARGUMENT = "InvalidArgument", "the installed engine refuses an argument"
    NO_ENGINE = "NoEngine", "no engine of this host runs the image"
    NO_USER = "NoUser", "the user who is to run replicas does not exist"
    PREFLIGHT = "Preflight", "the installed engine is being asked about the arguments"
    PREFLIGHT_FAILED = "PreflightFailed", "the installed engine could not be asked about the arguments"
    SECRET_IN_ARGUMENT = "SecretInArgument", "an argument would show a Secret in the list of processes"
    TOO_LARGE_TO_START = "TooLargeToStart", "arguments and variables are larger than a process can be given"
    UNSUPPORTED_ARGUMENT = "UnsupportedArgument", "an argument cannot work on a host"
    UNSUPPORTED_COMMAND = "UnsupportedCommand", "the command does not start vLLM's server"
    UNUSABLE_ARGUMENT = "UnusableArgument", "an argument cannot be given to a process"
    UNUSABLE_VARIABLE = "UnusableVariable", "a variable cannot be given to a process"

    # Models, images and their files
    ACCESS_DENIED = "AccessDenied", "the source refuses the credentials"
    BAD_ARCHIVE = "BadArchive", "an archive cannot be unpacked"
    CHECKSUM_MISMATCH = "ChecksumMismatch", "a file differs from its checksum"
    DISK_FULL = "DiskFull", "the disk is full"
    ENGINE_DOWNLOAD = "EngineDownload", "the engine would download the model by itself"
    FOLDER_CLOSED = "FolderClosed", "the model's folder is one that no service may read"
    FOLDER_UNREADABLE = "FolderUnreadable", "the model's folder cannot be read by whoever runs replicas"
    IMAGE_PULL_FAILED = "ImagePullFailed", "the image could not be pulled"
    INTERRUPTED = "Interrupted", "fetching ended without saying why"
    INVALID_SETTINGS = "InvalidSettings", "the settings for the source cannot be used"
    MISSING_CONFIG_MAP = "MissingConfigMap", "a ConfigMap, or a key of it, is not in git"
    MOUNT_NOT_ALLOWED = "MountNotAllowed", "the mount would hide files that the engine needs"
    NO_LIBRARY = "NoLibrary", "the library for this kind of source is not installed"
    NO_PODMAN = "NoPodman", "podman cannot be run"
    NO_PROGRAM = "NoProgram", "the program that fetches models cannot be started"
    NOT_FOUND = "NotFound", "there is no model at the source"
    NO_VOLUME = "NoVolume", "the config names no folder for the claim"
    SILENT = "Silent", "it does nothing any more"
    SOURCE_CHANGED = "SourceChanged", "a file was replaced while it was fetched"
    SOURCE_FAILED = "SourceFailed", "the source failed"
    SOURCE_REFUSED = "SourceRefused", "the source refused the request"
    SOURCE_UNREACHABLE = "SourceUnreachable", "the source does not answer"
    STAGING = "Staging", "the model or image is being fetched"
    STAGING_FAILED = "StagingFailed", "the model could not be fetched"
    STORAGE_UNSUPPORTED = "StorageUnsupported", "a host cannot fetch models from there"
    TOKEN_NOT_USED = "TokenNotUsed", "a token would not reach what downloads the model"
    TOO_MANY_FILES = "TooManyFiles", "the model has too many files"
    UNEXPECTED = "Unexpected", "an error that was not foreseen; its traceback is in the log"
    UNEXPECTED_TYPE = "UnexpectedType", "the source answers with another type of file"
    UNSAFE_PATH = "UnsafePath", "a file would lie, or lead, outside of the model's folder"
    UNSAFE_REDIRECT = "UnsafeRedirect", "the source redirects to where nothing may be fetched from"
    VANISHED = "Vanished", "the fetched files are not there any more"
    WEIGHTS_MISSING = "WeightsMissing", "the model's folder, or its weights, are not there"

    # Room on the host
    DOES_NOT_FIT = "DoesNotFit", "the model does not fit into its GPUs' memory"
    GPU_RESTLESS = "GPURestless", "another replica starts or stops on the GPU"
    IDLE_GPUS = "IdleGPUs", "the service leases more GPUs than it uses"
    INSUFFICIENT_ACCELERATOR = "InsufficientAccelerator", "there are too few accelerators of the kind"
    INSUFFICIENT_CPU = "InsufficientCPU", "there is too little CPU"
    INSUFFICIENT_GPU = "InsufficientGPU", "there are too few GPUs"
    INSUFFICIENT_GPU_MEMORY = "InsufficientGPUMemory", "there is too little memory free on the GPU"
    INSUFFICIENT_MEMORY = "InsufficientMemory", "there is too little memory"
    NO_FREE_PORT = "NoFreePort", "no port is free for another replica"
    NOT_AT_ONCE = "NotAtOnce", "the services together need more than the host has"
    NOT_WRITABLE = "NotWritable", "a folder cannot be written to"
    SHARED_MEMORY_FULL = "SharedMemoryFull", "there is too little shared memory"
    TOO_FEW_GPUS = "TooFewGPUs", "the arguments need more GPUs than the service leases"
    TOO_MANY_DEVICES = "TooManyDevices", "the service asks for more MIG devices than a process can use"

    # How a replica failed
    CRASHED = "Crashed", "the engine ended"
    ENGINE_DEAD = "EngineDead", "the engine answers that it is dead"
    HUNG = "Hung", "the engine answers nothing any more"
    NOT_READY_IN_TIME = "NotReadyInTime", "the replica was not ready in time"
    PORT_TAKEN = "PortTaken", "another process has the replica's port"
    STOPPED_BY_HAND = "StoppedByHand", "a person stopped the replica"

    # How a service stands
    ACTION_FAILED = "ActionFailed", "an action fails again and again"
    BLOCKED = "Blocked", "something keeps the service from starting"
    CRASH_LOOP = "CrashLoop", "replicas crashed repeatedly"
    DELETING = "Deleting", "the service is being taken away"
    HOST_FAILED = "HostFailed", "replicas fail because of this host, not of the commit"
    INTERNAL_ERROR = "InternalError", "a fault of the reconciler; its traceback is in the log"
    NO_REPLICAS = "NoReplicas", "git asks for no replicas"
    NOT_SERVING = "NotServing", "no replica serves"
    NOT_UNDERSTOOD = "NotUnderstood", "git's state could not be evaluated, so all stays as it is"
    NOT_YET_SEEN = "NotYetSeen", "no pass has looked at the service yet"
    PROGRESSING = "Progressing", "the service is on its way to what git says"
    REJECTED = "Rejected", "git's version failed and is not tried again"
    SERVING = "Serving", "all replicas serve"
    START_FAILED = "StartFailed", "a replica cannot be started"
    STOPS_SERVING = "StopsServing", "the service stops serving on this host"
    SUSPENDED = "Suspended", "a person suspended the service"
    TARGET_UNREACHABLE = "TargetUnreachable", "the target did not answer"
    TOO_FEW = "TooFew", "fewer replicas serve than git asks for"
    UNKNOWN_REASON = (
        "UnknownReason",
        "written down by a version of the reconciler that has other codes",
    )
    UNREACHABLE = "Unreachable", "the target does not answer"

    # KServe's own
    MODEL_LOAD_FAILED = "ModelLoadFailed", "the model could not be loaded"
