"""What the TOM is told of this app."""

from django.apps import AppConfig


class TomAlerceSparkConfig(AppConfig):
    """The app and its data service."""

    name = "tom_alerce_spark"

    def data_services(self) -> list[dict[str, str]]:
        """Data services that the TOM offers."""
        return [{"class": f"{self.name}.service.AlerceSparkDataService"}]
