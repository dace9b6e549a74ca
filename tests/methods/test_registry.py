"""Methods are found by name, described without heavy imports, and added by one registration."""

import subprocess
import sys

import pytest

from gossamer import methods
from gossamer.errors import SettingError, UnknownNameError
from gossamer.methods import Method, MethodSettings, registry


def test_the_first_methods_are_there():
    assert {"lora", "rslora", "dora", "qlora", "full"} <= set(methods.names())


@pytest.mark.parametrize("name", methods.names())
def test_every_method_says_what_it_is(name):
    method = methods.find(name)
    assert method.name == name
    assert methods.summary(name)
    assert "\n" not in methods.summary(name)
    for field, info in method.settings_type.model_fields.items():
        assert info.description, f"setting {field} has no sentence"
    assert isinstance(method.from_values({}).settings, method.settings_type)


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(UnknownNameError, match="unknown method 'lorra'; did you mean 'lora'"):
        methods.find("lorra")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 0}, "'rank' = 0: must be at least 1"),
        ({"rank": "many"}, "'rank' = 'many'"),
        ({"dropout": 1.5}, "'dropout' = 1.5: must be below 1"),
        ({"alpha": -1}, "'alpha' = -1"),
        ({"rnk": 8}, "unknown setting 'rnk'; did you mean 'rank'"),
        ({"layers": [-1]}, "'layers.0' = -1"),
    ],
)
def test_impossible_settings_are_refused_by_name_and_value(values, message):
    with pytest.raises(SettingError, match="method 'lora'") as raised:
        methods.find("lora").from_values(values)
    assert message in str(raised.value)


def test_one_registration_adds_a_method_and_a_second_of_that_name_is_refused(monkeypatch):
    monkeypatch.setattr(registry, "ADDED", {})

    class Nothing(Method):
        """Learns nothing."""

        name = "nothing"
        summary = "learns nothing"
        kind = "low-rank"
        settings_type = MethodSettings

        def prepare(self, model, context): ...
        def save(self, model, folder, context): ...
        def restore(self, model, folder): ...

    methods.register(Nothing)
    assert methods.find("nothing") is Nothing
    other = type("Other", (Nothing,), {})
    with pytest.raises(ValueError, match="registered twice"):
        methods.register(other)


def test_listing_methods_loads_no_heavy_library():
    code = (
        "import sys, gossamer.methods as m; m.names(); "
        "print(sorted({'torch', 'peft', 'transformers', 'trl'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(registry.TABLE))
def test_the_settings_beside_a_method_are_its_own(name):
    assert methods.settings_type(name) is methods.find(name).settings_type
    assert methods.parse_settings(name, {}) == methods.find(name).from_values({}).settings


def test_names_lines_and_settings_are_known_without_loading_a_method():
    code = (
        "import sys, gossamer.methods as m\n"
        "from gossamer.cli.main import main\n"
        "try: main(['tune', '--help'])\n"
        "except SystemExit: pass\n"
        "main(['tune', '--help-method', 'smt'])\n"
        "for name in m.names():\n"
        "    m.summary(name), m.default_rate(name), m.parse_settings(name, {})\n"
        "rows = m.registry.TABLE.values()\n"
        "loaded = {target.partition(':')[0] for target, _ in rows} & set(sys.modules)\n"
        "print(sorted(loaded | ({'torch', 'peft', 'transformers', 'trl'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "trains the blocks of weights that matter most" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_name_of_the_table_cannot_be_registered_again():
    other = type("Other", (methods.find("lora"),), {})
    with pytest.raises(ValueError, match="'lora' is registered twice"):
        methods.register(other)
    assert methods.find("lora") is not other


def test_the_settings_of_smt_choose_which_of_its_two_runs_it_is():
    probe, train = (
        methods.find("smt").from_values({"selection": selection})
        for selection in ("probe", "train")
    )
    assert (probe.kind, probe.trains_base) == ("sparse", False)
    assert (train.kind, train.trains_base) == ("model", True)
