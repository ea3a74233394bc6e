"""The data service: the toolkit's own one for ALeRCE, asked of another server."""

from __future__ import annotations

from functools import cache as kept
from typing import Any

from alerce.core import Alerce
from alerce.exceptions import APIError
from django.core.cache import cache
from requests import RequestException
from tom_dataservices.data_services.alerce import AlerceDataService, AlerceForm
from tom_dataservices.dataservices import QueryServiceError

_OBJECTS = "/ztf/v1/objects"
_ROWS = ("detections", "non_detections", "lightcurve", "magstats", "probabilities", "features")
_ROUTES = {
    "objects": _OBJECTS,
    "single_object": f"{_OBJECTS}/%s",
    **{name: f"{_OBJECTS}/%s/{name}" for name in _ROWS},
    "classifiers": "/ztf/v1/classifiers",
    "forced_photometry": "/v2/lightcurve/forced-photometry/%s",
}
#: How long a form keeps the names of the classes [s]: a new model may have others.
_CLASSES_S = 600
_SURVEY = "ztf"


@kept
def client(url: str) -> Alerce:
    """ALeRCE's client, asking the server at `url`."""
    one = Alerce()
    one.legacy_ztf_client.load_config_from_object({"ZTF_API_URL": url.rstrip("/"), "ZTF_ROUTES": _ROUTES})
    return one


class AlerceSparkForm(AlerceForm):
    """ALeRCE's form with the classes of this server."""

    def get_classifiers(self) -> list[dict[str, Any]]:
        """Classifiers of the server, the newest version of each."""
        url = AlerceSparkDataService.url()
        key = f"alerce_spark_classifiers_{url}"
        found = cache.get(key)
        if not found:
            found = list(
                {one["classifier_name"]: one for one in client(url).query_classifiers(survey=_SURVEY)}.values()
            )
            cache.set(key, found, _CLASSES_S)
        return found


class AlerceSparkDataService(AlerceDataService):
    """Objects, light curves and classes of the server named by DATA_SERVICES["alerce_spark"]["base_url"]."""

    name = "alerce_spark"
    verbose_name = "alerce_spark"

    @classmethod
    def url(cls) -> str:
        """Address of the server."""
        return str(cls.get_configuration("base_url"))

    @classmethod
    def get_form_class(cls) -> type[AlerceSparkForm]:
        """The form of a query."""
        return AlerceSparkForm

    def build_query_parameters(self, parameters: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Parameters of a query, of a filled form. A range may be open; a position may have a zero."""
        asked = super().build_query_parameters(parameters, **kwargs) | {"survey": _SURVEY}
        for name in ("firstmjd", "lastmjd"):
            least, most = parameters.get(f"{name}_gt"), parameters.get(f"{name}_lt")
            if least is not None or most is not None:
                asked[name] = [least or 0, *([] if most is None else [most])]
        place = {name: parameters.get(name) for name in ("ra", "dec", "radius")}
        if place["ra"] is not None and place["dec"] is not None:
            asked |= {name: value for name, value in place.items() if value is not None}
        return asked

    def query_service(self, query_parameters: dict[str, Any], **kwargs: Any) -> list[dict[str, Any]]:
        """Objects: the one that is named, or those that meet the form. Raises QueryServiceError."""
        asked = dict(query_parameters)
        classes = asked.pop("classifiers", None) or [{}]
        one = client(self.url())
        try:
            if asked.get("oid"):
                found = [one.query_object(asked["oid"], format="json", survey=_SURVEY)]
            else:
                found = [row for chosen in classes for row in one.query_objects(**asked, **_class(chosen))["items"]]
        except (APIError, RequestException) as error:
            raise QueryServiceError(str(error)) from error
        return [row | {"survey": _SURVEY} for row in {row["oid"]: row for row in found}.values()]

    def query_photometry(self, query_parameters: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Detections and limits of an object. Raises QueryServiceError."""
        return self._of_object("query_lightcurve", query_parameters)

    def query_forced_photometry(self, query_parameters: dict[str, Any], **kwargs: Any) -> list[dict[str, Any]]:
        """Forced photometry of an object. Raises QueryServiceError."""
        return self._of_object("query_forced_photometry", query_parameters)

    def _of_object(self, method: str, query_parameters: dict[str, Any]) -> Any:
        try:
            ask = getattr(client(self.url()), method)
            return ask(query_parameters["object_id"], format="json", survey=_SURVEY)
        except (APIError, RequestException) as error:
            raise QueryServiceError(str(error)) from error


def _class(chosen: dict[str, Any]) -> dict[str, Any]:
    """A class of the form as parameters."""
    names = {"classifier": "classifier", "class": "class_name", "probability": "probability"}
    return {new: chosen[old] for old, new in names.items() if chosen.get(old) is not None}
