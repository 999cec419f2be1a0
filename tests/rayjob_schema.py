"""A JSON Schema of the part of KubeRay's RayJob that deploy/rayjob.yaml uses, and of the pods in it.

Our own, strict where the real one is lenient (an API server drops a misspelt field and says nothing): names,
types, enumerations and required fields of the ray.io/v1 types of KubeRay 1.7.0 and of Kubernetes' core/v1,
each compared with its reference by hand; nothing that the manifest does not use. Comments name what the
operator checks beyond its schema.
"""

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
# A DNS-1035 label; the operator takes 47 characters of a RayJob's name.
NAME: Schema = {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 47}
QUANTITY: Schema = {
    "type": ["integer", "string"],
    "pattern": r"^[0-9]+(\.[0-9]+)?([KMGTPE]i|[munkMGTPE]|[eE][+-]?[0-9]+)?$",
}


def record(required: str = "", **fields: Schema) -> Schema:
    """An object with these fields and no others; `required` names some of them, separated by spaces."""
    return {
        "type": "object",
        "properties": fields,
        "required": required.split(),
        "additionalProperties": False,
    }


def many(item: Schema, least: int = 0) -> Schema:
    """A list of these."""
    return {"type": "array", "items": item, "minItems": least}


RESOURCES = record(
    requests={"type": "object", "additionalProperties": QUANTITY},
    limits={"type": "object", "additionalProperties": QUANTITY},
)

CONTAINER = record(
    "name image",  # core/v1 requires the name alone, but here nothing else would fill the image in
    name=NAME,
    image=TEXT,
    env=many(record("name", name=TEXT, value={"type": "string"})),
    envFrom=many(record(secretRef=record("name", name=TEXT, optional=FLAG))),
    ports=many(record("containerPort", name=NAME, containerPort={"type": "integer", "minimum": 1})),
    resources=RESOURCES,
    volumeMounts=many(record("name mountPath", name=NAME, mountPath=TEXT, readOnly=FLAG)),
)

VOLUME = {
    **record(
        "name",
        name=NAME,
        persistentVolumeClaim=record("claimName", claimName=TEXT, readOnly=FLAG),
        emptyDir=record(medium={"enum": ["", "Memory"]}, sizeLimit=QUANTITY),
    ),
    "minProperties": 2,  # its name and exactly one source
    "maxProperties": 2,
}

TOLERATION = record(
    key=TEXT,
    operator={"enum": ["Exists", "Equal"]},
    value={"type": "string"},
    effect={"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
)

POD = record(
    "spec",
    spec=record(
        "containers",
        securityContext=record(fsGroup=COUNT, fsGroupChangePolicy={"enum": ["OnRootMismatch", "Always"]}),
        restartPolicy={"const": "Never"},  # the operator refuses any other with the v2 autoscaler
        containers=many(CONTAINER, least=1),
        tolerations=many(TOLERATION),
        volumes=many(VOLUME),
    ),
)

AUTOSCALER = record(
    idleTimeoutSeconds=COUNT,
    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    version={"enum": ["v1", "v2"]},
    resources=RESOURCES,
)

WORKERS = record(
    "groupName minReplicas maxReplicas template",
    groupName=NAME,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    rayStartParams=TEXTS,
    template=POD,
)

CLUSTER = record(
    "headGroupSpec rayVersion",  # the operator requires the version where authOptions asks for tokens
    rayVersion=TEXT,
    authOptions=record(mode={"enum": ["disabled", "token"]}, secretName=TEXT),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=AUTOSCALER,
    headGroupSpec=record("template", rayStartParams=TEXTS, template=POD),
    workerGroupSpecs=many(WORKERS),
)

RAY_JOB = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    **record(
        "apiVersion kind metadata spec",
        apiVersion={"const": "ray.io/v1"},
        kind={"const": "RayJob"},
        metadata=record("name", name=NAME, namespace=NAME, labels=TEXTS, annotations=TEXTS),
        spec=record(
            "entrypoint rayClusterSpec",
            entrypoint=TEXT,
            submissionMode={"enum": ["K8sJobMode", "HTTPMode", "SidecarMode"]},
            shutdownAfterJobFinishes=FLAG,
            ttlSecondsAfterFinished=COUNT,
            backoffLimit=COUNT,
            activeDeadlineSeconds={**COUNT, "minimum": 1},
            rayClusterSpec=CLUSTER,
        ),
    ),
}
