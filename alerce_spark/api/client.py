"""The file that points ALeRCE's Python client at a server: its ALERCE_CONFIG_PATH, read when it is imported."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from alerce_spark.errors import InputError


def configuration(url: str) -> dict[str, Any]:
    """Settings of `alerce` 2.3 for a server. Raises InputError for an invalid URL."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise InputError(f"{url!r} is no address of a server; write it as http://127.0.0.1:8800")
    base = url.rstrip("/")
    names = ("detections", "non_detections", "lightcurve", "magstats", "probabilities", "features")
    one = "/ztf/v1/objects/%s"
    lightcurve = "lightcurve_api"
    return {
        "ztf": {
            "ZTF_API_URL": base,
            "ZTF_ROUTES": {
                "objects": "/ztf/v1/objects",
                "single_object": one,
                **{name: f"{one}/{name}" for name in names},
                "single_feature": f"{one}/features/%s",
                "classifiers": "/ztf/v1/classifiers",
                "classifier_classes": "/ztf/v1/classifiers/%s/%s/classes",
                "forced_photometry": "/v2/lightcurve/forced-photometry/%s",
            },
        },
        "multisurvey": {
            "URL_MS": f"{base}/",
            "ROUTES_MS": {
                "objects": "object_api/list_objects",
                "single_object": "object_api/object",
                "detections": f"{lightcurve}/detections",
                "forced_photometry": f"{lightcurve}/forced-photometry",
                "non_detections": f"{lightcurve}/non_detections",
                "lightcurve": f"{lightcurve}/lightcurve",
                "probabilities": "probability_api/probability",
            },
        },
        "stamps": {
            "STAMP_URL": f"{base}/stamps_api",
            "AVRO_ROUTES": {"get_stamp": "/stamp", "get_avro": "/get_avro"},
        },
        "stamps_ztf": {
            "AVRO_URL": base,
            "AVRO_ROUTES": {"get_stamp": "/get_stamp", "get_avro": "/get_avro"},
        },
    }
