"""Key files as `gossamer keys` makes them."""

from gossamer.cli.main import main


def key_maker(path, capsys):
    """A function that adds a tenant to the key file `path`, which it names, and returns the key."""

    def add(tenant, *options):
        assert main(["keys", "add", tenant, "--file", str(path), *options]) == 0
        return capsys.readouterr().out.strip()

    add.path = path
    return add
