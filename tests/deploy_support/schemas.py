"""Validates objects against the schemas of Kubernetes releases, and of the operators whose resources are used."""

import functools
from typing import Any, Final

import jsonschema
import kubernetes_validate

from deploy_support.builds import Manifest, named

RELEASES: Final = ("1.27", "1.32", "1.37")
"""The oldest is the cluster-autoscaler's, the newest is the newest whose schemas are bundled."""


def _object(required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties, "additionalProperties": False}


def _spec(spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {"apiVersion": {}, "kind": {}, "metadata": {"required": ["name"]}, "spec": spec},
        "additionalProperties": False,
    }


_TEXT: Final = {"type": "string", "minLength": 1}
_TEXTS: Final = {"type": "array", "items": _TEXT, "minItems": 1}
_DURATION: Final = {"type": "string", "pattern": "^([0-9]+(h|m|s))+$"}
_LABELS: Final = {"type": "object", "additionalProperties": _TEXT}
_KEY: Final = _object(("name", "key"), name=_TEXT, key=_TEXT)
_SELECTOR: Final = _object((), matchLabels=_LABELS, matchExpressions={"type": "array", "items": {"type": "object"}})
_RULE: Final = {
    "oneOf": [
        _object(
            ("alert", "expr", "labels", "annotations"),
            alert=_TEXT,
            expr=_TEXT,
            labels=_object(("severity",), severity={"enum": ["warning", "critical"]}),
            annotations=_object(("summary",), summary=_TEXT),
            **{"for": _DURATION},
        ),
        _object(("record", "expr"), record={"type": "string", "pattern": "^[a-z_:][a-z0-9_:]*$"}, expr=_TEXT),
    ]
}

OPERATORS: Final[dict[tuple[str, str], dict[str, Any]]] = {
    ("cert-manager.io/v1", "Issuer"): _spec(
        {
            "oneOf": [
                _object(("selfSigned",), selfSigned=_object(())),
                _object(("ca",), ca=_object(("secretName",), secretName=_TEXT)),
            ]
        }
    ),
    ("cert-manager.io/v1", "ClusterIssuer"): _spec(
        _object(
            ("acme",),
            acme=_object(
                ("server", "email", "privateKeySecretRef", "solvers"),
                server={"type": "string", "pattern": "^https://"},
                email=_TEXT,
                privateKeySecretRef=_object(("name",), name=_TEXT),
                solvers={
                    "type": "array",
                    "items": _object(
                        ("http01",),
                        http01=_object(("ingress",), ingress=_object(("ingressClassName",), ingressClassName=_TEXT)),
                    ),
                },
            ),
        )
    ),
    ("cert-manager.io/v1", "Certificate"): _spec(
        _object(
            ("secretName", "issuerRef"),
            secretName=_TEXT,
            isCA={"type": "boolean"},
            commonName=_TEXT,
            duration=_DURATION,
            renewBefore=_DURATION,
            privateKey=_object(
                (),
                algorithm={"enum": ["RSA", "ECDSA", "Ed25519"]},
                size={"type": "integer"},
                rotationPolicy={"enum": ["Never", "Always"]},
            ),
            usages={"type": "array", "items": {"enum": ["server auth", "client auth"]}},
            dnsNames=_TEXTS,
            issuerRef=_object(("kind", "name"), kind={"enum": ["Issuer", "ClusterIssuer"]}, name=_TEXT),
        )
    ),
    ("external-secrets.io/v1", "ExternalSecret"): _spec(
        _object(
            ("secretStoreRef", "target", "data"),
            refreshInterval=_DURATION,
            secretStoreRef=_object(("kind", "name"), kind={"enum": ["SecretStore", "ClusterSecretStore"]}, name=_TEXT),
            target=_object(("name",), name=_TEXT, creationPolicy={"enum": ["Owner", "Orphan", "Merge", "None"]}),
            data={
                "type": "array",
                "items": _object(
                    ("secretKey", "remoteRef"),
                    secretKey=_TEXT,
                    remoteRef=_object(("key",), key=_TEXT, property=_TEXT),
                ),
            },
        )
    ),
    ("monitoring.coreos.com/v1", "PodMonitor"): _spec(
        _object(
            ("selector", "podMetricsEndpoints"),
            selector=_SELECTOR,
            podMetricsEndpoints={
                "type": "array",
                "items": _object(
                    ("port",),
                    port=_TEXT,
                    path={"type": "string", "pattern": "^/"},
                    interval=_DURATION,
                    authorization=_object(("credentials",), type=_TEXT, credentials=_KEY),
                ),
            },
        )
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): _spec(
        _object(
            ("groups",),
            groups={
                "type": "array",
                "items": _object(
                    ("name", "rules"), name=_TEXT, interval=_DURATION, rules={"type": "array", "items": _RULE}
                ),
            },
        )
    ),
    ("argoproj.io/v1alpha1", "Application"): _spec(
        _object(
            ("project", "source", "destination"),
            project=_TEXT,
            source=_object(("repoURL", "targetRevision", "path"), repoURL=_TEXT, targetRevision=_TEXT, path=_TEXT),
            destination=_object(("name", "namespace"), name=_TEXT, namespace=_TEXT),
            ignoreDifferences={
                "type": "array",
                "items": _object(
                    ("group", "kind", "name", "jsonPointers"), group=_TEXT, kind=_TEXT, name=_TEXT, jsonPointers=_TEXTS
                ),
            },
            syncPolicy=_object(
                (),
                automated=_object((), prune={"type": "boolean"}, selfHeal={"type": "boolean"}),
                syncOptions=_TEXTS,
                retry=_object((), limit={"type": "integer"}),
            ),
        )
    ),
}
"""What of the operators' resources is used here, and nothing else of it: a name that is misspelt is refused."""


def invalid(manifest: Manifest, release: str) -> list[str]:
    """Tell what a release of Kubernetes, or the operator, would refuse; unknown fields are refused as well."""
    schema = OPERATORS.get((manifest["apiVersion"], manifest["kind"]))
    try:
        if schema is not None:
            jsonschema.validate(manifest, schema)
        else:
            _read_schemas_once()
            kubernetes_validate.validate(manifest, release, strict=True)
    except jsonschema.ValidationError as error:
        where = ".".join(str(part) for part in error.path)
        return [f"{named(manifest)} in {release}: {where}: {error.message}"]
    except kubernetes_validate.SchemaNotFoundError:
        return [f"{named(manifest)}: {release} knows no {manifest['apiVersion']} {manifest['kind']}"]
    return []


@functools.cache
def _read_schemas_once() -> None:
    """Keep what the package reads: it parses a megabyte for each object otherwise."""
    kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)
