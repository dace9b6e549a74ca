"""The limits that the page on trust names are those of the settings."""

import re

from house import ROOT

from gossamer.adapters.reading.limits import AdapterLimits
from gossamer.serving.device.cpu import CpuDevice
from gossamer.serving.http.settings import HttpSettings
from gossamer.serving.settings import ServeSettings

ROW = re.compile(r"^\| .+ \| ([\d,.]+)[^|]* \| `--([a-z-]+)` \|$", re.M)


def test_every_limit_on_the_page_is_the_default_of_its_setting():
    defaults = {
        name: field.default
        for settings in (AdapterLimits, HttpSettings, ServeSettings)
        for name, field in settings.model_fields.items()
    }
    defaults |= {
        "max_running": CpuDevice.usual_running,
        "max_batch_tokens": CpuDevice.usual_batch_tokens,
    }
    rows = ROW.findall((ROOT / "docs/concepts/trust.md").read_text())
    told = {option.replace("-", "_"): float(value.replace(",", "")) for value, option in rows}
    assert told == {name: defaults[name] for name in told}


def test_the_page_names_every_limit_of_reading_an_adapter():
    page = (ROOT / "docs/concepts/trust.md").read_text()
    options = (f"`--{name.replace('_', '-')}`" for name in AdapterLimits.model_fields)
    assert [option for option in options if option not in page] == []
