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

    # An enum is pickled as a call of `getattr`, which a worker's answer may not hold.
    def __reduce_ex__(self, protocol: Any) -> tuple[type[ReasonCode], tuple[str]]:
        return ReasonCode, (self._value_,)

    @classmethod
    def read(cls, text: str) -> ReasonCode:
        """What a record on disk says, which another version may have written."""
        now = RENAMED.get(text, text)
        return cls(now) if now in cls._value2member_map_ else cls.UNKNOWN_REASON

    # What git says: files and folders
    EMPTY_FILE = "EmptyFile", "the file holds no document"
    FILE_IGNORED = "FileIgnored", "the ignore file leaves it out"
    FILE_TOO_LARGE = "FileTooLarge", "the file is larger than source.max_file_bytes"
    FOLDER_TOO_LARGE = "FolderTooLarge", "the folder holds more than a revision may bring"
    HIDDEN = "Hidden", "the name of the file, or of a folder above it, begins with a dot"
    INVALID_IGNORE_FILE = "InvalidIgnoreFile", "a line of the ignore file cannot be understood"
    INVALID_PATH = "InvalidPath", "the path is too long, leads out of the repository or cannot be printed"
    MISNAMED_MANIFEST = "MisnamedManifest", "the file holds a manifest, but is not named like one"
    NO_FILES = "NoFiles", "the folder holds no file with a manifest's name"
    NOT_A_MANIFEST = "NotAManifest", "the file holds no Kubernetes object"
    NOT_A_REGULAR_FILE = "NotARegularFile", "it is neither a file nor a folder"
    NOT_TEXT = "NotText", "the file is not UTF-8 text"
    PATH_NOT_FOUND = "PathNotFound", "a path of targets[].paths is not in the repository"
    SUBMODULE = "Submodule", "it is a submodule, which is not fetched"
    SYMLINK = "Symlink", "it is a symbolic link, which is not followed"
    UNREADABLE = "Unreadable", "it cannot be read, so what it may hold is not known"
    UNRESOLVED_FILE = "UnresolvedFile", "git-crypt, Git LFS or a merge left something else in place of the file"

    # What git says: documents
    AMBIGUOUS_SCALAR = "AmbiguousScalar", "a value without quotes means something else than text"
    DEPENDENCY_UNREADABLE = "DependencyUnreadable", "what the service needs may be in what cannot be read"
    DOCUMENT_NOT_ALLOWED = "DocumentNotAllowed", "the document may not be in this folder"
    DUPLICATE_KEY = "DuplicateKey", "a key is written twice in one mapping"
    DUPLICATE_OBJECT = "DuplicateObject", "the object is written more than once"
    INCOMPLETE_MANIFEST = "IncompleteManifest", "the document is missing what every Kubernetes object has"
    INVALID_DEPENDENCY = "InvalidDependency", "what the object depends on can never be there before it"
    INVALID_DOCUMENT = "InvalidDocument", "the document does not fit its kind's schema"
    INVALID_NAME = "InvalidName", "the name cannot be a service's"
    INVALID_YAML = "InvalidYaml", "the document is not valid YAML"
    TEMPLATE_NOT_RENDERED = "TemplateNotRendered", "it holds template text that nothing here renders"
    TOO_DEEP = "TooDeep", "the document is nested too deeply"
    TOO_MANY_ALIASES = "TooManyAliases", "the document has too many YAML aliases"
    TOO_MANY_DOCUMENTS = "TooManyDocuments", "the file holds more documents, or errors, than are read"
    TOO_MANY_VALUES = "TooManyValues", "the documents together expand to too many values"
    UNKNOWN_KIND = "UnknownKind", "the document is of a kind that is not served"
    UNKNOWN_TAG = "UnknownTag", "the document has a YAML tag that is not allowed"
    UNSUPPORTED_KIND = "UnsupportedKind", "the document is of a kind of KServe that is not supported"

    # What git says: kustomize
    INVALID_KUSTOMIZATION = "InvalidKustomization", "the kustomization cannot be read"
    KUSTOMIZATION_LISTS_FILES = "KustomizationListsFiles", "the kustomization lists which files are read"
    KUSTOMIZATION_NOT_BUILT = "KustomizationNotBuilt", "the kustomization cannot be built"
    NOT_IN_KUSTOMIZATION = "NotInKustomization", "a kustomization beside the file does not list it"
    PART_OF_KUSTOMIZATION = "PartOfKustomization", "the file is part of a kustomization, not an object by itself"

    # The target's own document
    CORDONED = "Cordoned", "nothing new may start on this target: spec.unschedulable in its host.yaml"
    DRAINED = "Drained", "nothing may run on this target: spec.drain in its host.yaml, or `host drain`"
    DUPLICATE_HOST = "DuplicateHost", "the target has more than one Host document"
    HOST_DOCUMENT_IGNORED = "HostDocumentIgnored", "the Host document is not in the target's own file"
    HOST_NAME_MISMATCH = "HostNameMismatch", "the Host document names another host than the config"
    INVALID_HOST = "InvalidHost", "a field of the Host document cannot be used"
    NO_LONGER_DRAINS = "NoLongerDrains", "spec.unschedulable drained the host in older versions"
    NOT_PRUNABLE = "NotPrunable", "the target's own file is missing, so nothing is pruned"
    TARGET_REMOVED = "TargetRemoved", "the target was taken out of the config"

    # Secrets
    INVALID_SECRET = "InvalidSecret", "the Secret cannot be decoded"
    NO_DECRYPTION_KEY = "NoDecryptionKey", "the host has no key that could decrypt the Secret"
    NOT_A_SECRET = "NotASecret", "the document is not a Secret, and only Secrets are read there"
    PLAINTEXT_SECRET = "PlaintextSecret", "the Secret is in git without encryption"
    SECRET_NOT_ALLOWED = "SecretNotAllowed", "the Secret may not be in this folder"
    SECRET_NOT_FOUND = "SecretNotFound", "a Secret, or a key of it, is not there"
    SECRET_SHADOWED = "SecretShadowed", "another Secret of the same name counts"
    SECRETS_UNREADABLE = "SecretsUnreadable", "a place of Secrets, or the age key, cannot be read"
    TAMPERED_SECRET = "TamperedSecret", "the Secret was changed after it was encrypted"
    WRONG_DECRYPTION_KEY = "WrongDecryptionKey", "the Secret is encrypted for other keys than those of the host"

    # The service's fields: refused
    ADMISSION_DENIED = "AdmissionDenied", "KServe's webhooks would refuse the service"
    FAILED_CREATE = "FailedCreate", "Kubernetes would refuse the pod"
    INVALID_ANNOTATION = "InvalidAnnotation", "an annotation has a value that cannot be used"
    INVALID_FIELD = "InvalidField", "a field has a value that cannot be used"
    INVALID_PLACEMENT = "InvalidPlacement", "the rules for nodes cannot be used"
    INVALID_PREDICTOR_SPEC = "InvalidPredictorSpec", "the predictor cannot be built with its runtime"
    INVALID_QUANTITY = "InvalidQuantity", "a quantity of resources cannot be read"
    INVALID_STORAGE = "InvalidStorage", "it is not clear where the model is"
    INVALID_VOLUME = "InvalidVolume", "a volume or its mount cannot be used"
    INVALID_WORKER_SPEC = "InvalidWorkerSpec", "the workerSpec cannot be used"
    MODEL_MESH = "ModelMesh", "the service is in mode ModelMesh, for which KServe deploys nothing"
    NO_AUTH = "NoAuth", "the service asks for authentication, and nothing would enforce it"
    NO_SUPPORTING_RUNTIME = "NoSupportingRuntime", "no runtime supports the model"
    RECONCILE_FAILED = "ReconcileFailed", "KServe's controller would fail on the service"
    RUNTIME_DISABLED = "RuntimeDisabled", "the runtime is disabled"
    RUNTIME_NOT_RECOGNIZED = "RuntimeNotRecognized", "the runtime does not exist"
    SERVERLESS_MODE_REJECTED = "ServerlessModeRejected", "the service asks for Knative, which is not to be had"
    SPEC_TOO_LARGE = "SpecTooLarge", "the container's arguments, variables and files are too large"
    UNSUPPORTED_FIELD = "UnsupportedField", "a host cannot honour the field, or the kind"

    # The service's fields: honoured otherwise, or not
    ACCELERATOR_MISMATCH = "AcceleratorMismatch", "the host has none of the recommended accelerators"
    AMBIGUOUS_DISPLAY_NAME = "AmbiguousDisplayName", "several runtimes have the display name that is asked for"
    AMBIGUOUS_HOST = "AmbiguousHost", "a host name means more than one service"
    AMBIGUOUS_MODEL = "AmbiguousModel", "a model name means more than one service"
    CANARY_UNCHANGED = "CanaryUnchanged", "the canary equals what it would run beside"
    CONTAINER_IGNORED = "ContainerIgnored", "a container beside the model's does not run on a host"
    DEVELOPER_MODE = "DeveloperMode", "vLLM's developer mode opens more paths than the proxy lets through"
    DRAIN_ADDED = "DrainAdded", "settings are added by which running requests end before a pod does"
    DRAIN_CUT_SHORT = "DrainCutShort", "a pod ends before its running requests do"
    FIELD_IGNORED = "FieldIgnored", "the field is not honoured here"
    FINDINGS_OMITTED = "FindingsOmitted", "there are more findings than are shown"
    NEWER_VERSION_REQUIRED = "NewerVersionRequired", "the field needs a later version of KServe"
    NO_AUTOSCALING = "NoAutoscaling", "hosts do not scale by themselves"
    NO_EFFECT = "NoEffect", "the field has no effect here, and needs none"
    NO_SCALE_TO_ZERO = "NoScaleToZero", "hosts do not start replicas on demand"
    NOT_FOR_THIS_HOST = "NotForThisHost", "labels, taints or affinity send the service elsewhere"
    NOT_SCRAPED = "NotScraped", "no scrape target is published for the port"
    OPENSHIFT_AI = "OpenShiftAI", "OpenShift AI would do more with the annotation"
    PORT_MISMATCH = "PortMismatch", "the engine listens on another port than the container declares"
    PORT_PROTOCOL_MISMATCH = "PortProtocolMismatch", "the container's port and the engine's protocol disagree"
    STOPPED = "Stopped", "an annotation stops the service"
    UNKNOWN_ANNOTATION = "UnknownAnnotation", "the reconciler has no such annotation"
    VOLUME_IGNORED = "VolumeIgnored", "a volume is not provided on a host"

    # The engine and its arguments
    ARGUMENT_LIST_TOO_LONG = "ArgumentListTooLong", "arguments and variables are larger than a process can be given"
    CANNOT_START = "CannotStart", "a replica cannot be started"
    ENGINE_BROKEN = "EngineBroken", "the engine cannot be run on this host"
    FILE_DAMAGED = "FileDamaged", "a file that an argument names is damaged"
    FILE_NOT_FOUND = "FileNotFound", "a file that is needed is not there"
    FILE_UNREADABLE = "FileUnreadable", "a file that an argument names cannot be read"
    GPU_SHARE_EXCEEDED = "GPUShareExceeded", "the arguments let the engine take more of its GPU than its share"
    IMAGE_UNKNOWN = "ImageUnknown", "it is not clear whether the image is vLLM"
    INVALID_ARGUMENT = "InvalidArgument", "the installed engine, or the operating system, refuses an argument"
    INVALID_VARIABLE = "InvalidVariable", "a variable cannot be given to a process"
    NO_ENGINE = "NoEngine", "no engine of this host runs the image"
    PATH_NOT_ALLOWED = "PathNotAllowed", "a path that no service may read"
    PREFLIGHT_FAILED = "PreflightFailed", "the installed engine could not be asked about the arguments"
    PREFLIGHT_PENDING = "PreflightPending", "the installed engine is being asked about the arguments"
    SECRET_IN_ARGUMENT = "SecretInArgument", "an argument would show a Secret in the list of processes"
    UNSUPPORTED_ARGUMENT = "UnsupportedArgument", "an argument cannot work on a host"
    UNSUPPORTED_COMMAND = "UnsupportedCommand", "the command does not start vLLM's server"
    USER_NOT_FOUND = "UserNotFound", "the user who is to run replicas does not exist"

    # Models, images and their files
    ACCESS_DENIED = "AccessDenied", "the source refuses the credentials"
    CHECKSUM_MISMATCH = "ChecksumMismatch", "a file differs from its checksum"
    CLAIM_NOT_FOUND = "ClaimNotFound", "the config names no folder for the claim"
    CONFIG_MAP_NOT_FOUND = "ConfigMapNotFound", "a ConfigMap, or a key of it, is not in git"
    DISK_FULL = "DiskFull", "the disk is full"
    DOWNLOAD_INTERRUPTED = "DownloadInterrupted", "fetching ended without saying why"
    DOWNLOAD_STALLED = "DownloadStalled", "the program that fetches does nothing any more"
    ENGINE_DOWNLOAD = "EngineDownload", "the engine would download the model by itself"
    FETCHER_NOT_STARTED = "FetcherNotStarted", "the program that fetches models cannot be started"
    FOLDER_UNREADABLE = "FolderUnreadable", "the model's folder cannot be read by the user that runs replicas"
    IMAGE_PULL_FAILED = "ImagePullFailed", "the image could not be pulled"
    INTERNAL_ERROR = "InternalError", "a fault of the reconciler; its traceback is in the log"
    INVALID_ARCHIVE = "InvalidArchive", "an archive cannot be unpacked"
    INVALID_STORAGE_SETTINGS = "InvalidStorageSettings", "the settings for the source cannot be used"
    LIBRARY_NOT_INSTALLED = "LibraryNotInstalled", "the library for this kind of source is not installed"
    MODEL_NOT_FOUND = "ModelNotFound", "the model's files, or its weights, are not where the service expects them"
    MOUNT_NOT_ALLOWED = "MountNotAllowed", "the mount would hide files that the engine needs"
    PODMAN_NOT_FOUND = "PodmanNotFound", "podman cannot be run"
    SILENT = "Silent", "it does nothing any more"
    SOURCE_CHANGED = "SourceChanged", "a file was replaced while it was fetched"
    SOURCE_FAILED = "SourceFailed", "the source failed"
    SOURCE_REFUSED = "SourceRefused", "the source refused the request"
    SOURCE_UNREACHABLE = "SourceUnreachable", "the source does not answer"
    STAGED_FILES_DELETED = "StagedFilesDeleted", "the fetched files are not there any more"
    STAGING = "Staging", "the model or image is being fetched"
    STAGING_FAILED = "StagingFailed", "the model could not be fetched"
    TOKEN_NOT_USED = "TokenNotUsed", "a token would not reach what downloads the model"
    TOO_MANY_FILES = "TooManyFiles", "the model has too many files"
    UNEXPECTED_CONTENT_TYPE = "UnexpectedContentType", "the source answers with another type of file"
    UNSAFE_PATH = "UnsafePath", "a file would lie, or lead, outside of the model's folder"
    UNSAFE_REDIRECT = "UnsafeRedirect", "the source redirects to where nothing may be fetched from"
    UNSUPPORTED_STORAGE = "UnsupportedStorage", "a host cannot fetch models from there"

    # Room on the host
    DOES_NOT_FIT = "DoesNotFit", "the model does not fit into its GPUs' memory"
    FOLDER_NOT_WRITABLE = "FolderNotWritable", "a folder cannot be written to"
    GPU_BUSY = "GPUBusy", "another replica starts or stops on the GPU"
    IDLE_GPUS = "IdleGPUs", "the service leases more GPUs than it uses"
    INSUFFICIENT_ACCELERATOR = "InsufficientAccelerator", "there are too few accelerators of the kind"
    INSUFFICIENT_CAPACITY = "InsufficientCapacity", "the services together need more than the host has"
    INSUFFICIENT_CPU = "InsufficientCPU", "there is too little CPU"
    INSUFFICIENT_GPU = "InsufficientGPU", "there are too few GPUs"
    INSUFFICIENT_GPU_MEMORY = "InsufficientGPUMemory", "there is too little memory free on the GPU"
    INSUFFICIENT_MEMORY = "InsufficientMemory", "there is too little memory"
    NO_FREE_PORT = "NoFreePort", "no port is free for another replica"
    SHARED_MEMORY_FULL = "SharedMemoryFull", "there is too little shared memory"
    TOO_FEW_GPUS = "TooFewGPUs", "the arguments need more GPUs than the service leases"
    TOO_MANY_DEVICES = "TooManyDevices", "the service asks for more MIG devices than a process can use"

    # How a replica failed
    CRASHED = "Crashed", "the engine ended"
    ENGINE_DEAD = "EngineDead", "the engine answers that it is dead"
    HUNG = "Hung", "the engine answers nothing any more"
    PORT_TAKEN = "PortTaken", "another process has the replica's port"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded", "the replica was not ready in time"
    STOPPED_MANUALLY = "StoppedManually", "a person stopped the replica"

    # How a service stands
    ACTION_FAILED = "ActionFailed", "an action fails again and again"
    APPROVAL_REQUIRED = "ApprovalRequired", "so much would be deleted at once that a person must approve it"
    BLOCKED = "Blocked", "something keeps the service from starting"
    CONTROLLED = "Controlled", "another object controls this one, and deletes it with itself"
    CRASH_LOOP_BACKOFF = "CrashLoopBackOff", "replicas crashed repeatedly"
    DELETING = "Deleting", "the service is being taken away"
    EVALUATION_FAILED = "EvaluationFailed", "git's state could not be evaluated, so all stays as it is"
    HOST_FAILED = "HostFailed", "replicas fail because of this host, not of the commit"
    IN_USE = "InUse", "the namespace or CRD holds objects that stay"
    MINIMUM_REPLICAS_UNAVAILABLE = "MinimumReplicasUnavailable", "fewer replicas serve than git asks for"
    NOT_SERVING = "NotServing", "no replica serves"
    NOT_YET_OBSERVED = "NotYetObserved", "no pass has looked at the service yet"
    PROGRESSING = "Progressing", "the service is moving to what is in git"
    PRUNE_DISABLED = "PruneDisabled", "an annotation says that the object stays when git does not have it"
    REJECTED = "Rejected", "git's version failed and is not tried again"
    SCALED_TO_ZERO = "ScaledToZero", "git asks for no replicas"
    SERVING = "Serving", "all replicas serve"
    STOPS_SERVING = "StopsServing", "the service stops serving on this host"
    SUSPENDED = "Suspended", "a person suspended the service"
    TARGET_UNREACHABLE = "TargetUnreachable", "the target did not answer"
    RUNTIME_BATCH = "RuntimeBatch", "the runtime changed, and its services follow a few at a time"
    TERMINATING = "Terminating", "the object is being deleted, and not gone yet"
    UNKNOWN_REASON = "UnknownReason", "written down by a version of the reconciler that has other codes"

    # On a cluster
    AUTO_UPDATE_DISABLED = "AutoUpdateDisabled", "an annotation keeps KServe from rolling out what git says"
    CONTROLLER_SILENT = "ControllerSilent", "a controller of the cluster does not act on the object"
    FIELD_CONFLICT = "FieldConflict", "another tool applies a field that git has, too"
    KIND_NOT_SERVED = "KindNotServed", "the cluster does not know the object's kind"
    NOT_OURS = "NotOurs", "the object is there, and others made it"
    NO_ROLLBACK = "NoRollback", "the version cannot be kept, so nothing can fall back to it"
    NOT_LEADER = "NotLeader", "another daemon acts on this cluster for the target"
    FAILED_MOUNT = "FailedMount", "a volume of the pod cannot be mounted"
    MISSING = "Missing", "the object is not on the cluster"
    OWN_NAMESPACE = "OwnNamespace", "the object is in the namespace of the reconciler's own objects"
    NODE_LOST = "NodeLost", "the pod's node does not answer any more"
    OBJECT_FAILED = "ObjectFailed", "the object's own controller says that it failed"
    OOM_KILLED = "OOMKilled", "a container used more memory than its limit"
    QUOTA_EXCEEDED = "QuotaExceeded", "the namespace's quota leaves no room for the pods"
    UNREADABLE_STATUS = "UnreadableStatus", "the object holds what no controller writes there"
    UNSCHEDULABLE = "Unschedulable", "no node takes the pod"

    # KServe's own
    MODEL_LOAD_FAILED = "ModelLoadFailed", "the model could not be loaded"


RENAMED = {
    "BadArchive": "InvalidArchive",
    "BinaryFile": "NotText",
    "CrashLoop": "CrashLoopBackOff",
    "DisplayName": "AmbiguousDisplayName",
    "DocumentRefused": "InvalidDocument",
    "DocumentUncertain": "DependencyUnreadable",
    "Duplicate": "DuplicateObject",
    "FieldUnsupported": "UnsupportedField",
    "FileClosed": "PathNotAllowed",
    "FileMissing": "FileNotFound",
    "FileUnknown": "FileUnreadable",
    "FolderClosed": "PathNotAllowed",
    "GPURestless": "GPUBusy",
    "HostElsewhere": "HostDocumentIgnored",
    "Interrupted": "DownloadInterrupted",
    "Invalid": "InvalidDocument",
    "InvalidIgnore": "InvalidIgnoreFile",
    "InvalidSettings": "InvalidStorageSettings",
    "InvalidSpec": "InvalidDocument",
    "LaterVersion": "NewerVersionRequired",
    "MissingConfigMap": "ConfigMapNotFound",
    "MissingSecret": "SecretNotFound",
    "MoreFindings": "FindingsOmitted",
    "NoAgeKey": "NoDecryptionKey",
    "NoLibrary": "LibraryNotInstalled",
    "NoPodman": "PodmanNotFound",
    "NoProgram": "FetcherNotStarted",
    "NoReplicas": "ScaledToZero",
    "NoUser": "UserNotFound",
    "NoVolume": "ClaimNotFound",
    "NotAManifestName": "MisnamedManifest",
    "NotAtOnce": "InsufficientCapacity",
    "NotFound": "ModelNotFound",
    "NotListed": "NotInKustomization",
    "NotOnHosts": "UnsupportedField",
    "NotReadyInTime": "ProgressDeadlineExceeded",
    "NotRendered": "TemplateNotRendered",
    "NotTheFile": "UnresolvedFile",
    "NotUnderstood": "EvaluationFailed",
    "NotWritable": "FolderNotWritable",
    "NotYetSeen": "NotYetObserved",
    "OtherPort": "PortMismatch",
    "PathMissing": "PathNotFound",
    "PathNotUtf8": "InvalidPath",
    "PathOutsideRepository": "InvalidPath",
    "PathTooLong": "InvalidPath",
    "PortUnlikeServer": "PortProtocolMismatch",
    "Preflight": "PreflightPending",
    "RuntimeUncertain": "DependencyUnreadable",
    "SameCanary": "CanaryUnchanged",
    "StartFailed": "CannotStart",
    "StoppedByHand": "StoppedManually",
    "StorageUnsupported": "UnsupportedStorage",
    "TooFew": "MinimumReplicasUnavailable",
    "TooLargeToStart": "ArgumentListTooLong",
    "Unexpected": "InternalError",
    "UnexpectedType": "UnexpectedContentType",
    "UnprintablePath": "InvalidPath",
    "Unreachable": "TargetUnreachable",
    "UnusableArgument": "InvalidArgument",
    "UnusableVariable": "InvalidVariable",
    "Vanished": "StagedFilesDeleted",
    "WeightsMissing": "ModelNotFound",
    "WrongAgeKey": "WrongDecryptionKey",
}
"""Codes of older versions, which records on disk may hold, and what they are called now."""
