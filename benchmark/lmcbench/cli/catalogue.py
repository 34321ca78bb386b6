"""Commands that list suites, shifts, architectures and data sets, fetch data, and describe this machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lmcbench.cli.app import DataDir, Json, app, print_json
from lmcbench.output import print_text


@app.command(epilog="Example: lmcbench suites digits")
def suites(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="A published suite or a .toml file; default: list all suites."),
    ] = None,
    data_dir: DataDir = None,
    toml: Annotated[
        bool, typer.Option("--toml", help="Print the suite's file, as a start for your own suite.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the published suites, or describe one.

    The description shows the suite's cells, its cost and digest, and where its data sets were found.
    """
    from lmcbench import catalogue
    from lmcbench.spec.suite_files import load_suite, read_suite

    if toml:
        if name is None or as_json:
            raise typer.BadParameter("--toml needs the name of a suite and cannot be combined with --json")
        print_text(read_suite(name)[0].decode("utf-8-sig", "replace"), nl=False)
    elif name is None:
        listed = catalogue.list_suites()
        print_json(listed) if as_json else print_text(catalogue.suites_text(listed))
    else:
        suite = load_suite(name)
        if as_json:
            print_json(catalogue.describe_suite(suite))
            return
        from lmcbench.data.listing import describe_location

        needed = catalogue.needed_data(suite)
        print_text(catalogue.suite_text(suite, {name: describe_location(name, data_dir) for name in needed}))


@app.command()
def shifts(as_json: Json = False) -> None:
    """List the training shifts and the evaluation shifts.

    Each has a description, its parameters and its source.
    """
    from lmcbench import catalogue
    from lmcbench.spec.evaluation_shifts import domain_table, shifted_table, transform_table

    listed = catalogue.list_shifts()
    transforms = [*transform_table(), *domain_table(), *shifted_table()]
    if as_json:
        print_json({"shifts": listed, "transforms": transforms})
    else:
        print_text(catalogue.shifts_text(listed, transforms))


@app.command(epilog="Example: lmcbench archs 'resnet*'")
def archs(
    pattern: Annotated[
        str | None,
        typer.Argument(
            metavar="GLOB",
            help="Show those that match, here and in timm's registry; default: the built-in ones.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the built-in architectures, or search timm's with GLOB."""
    from lmcbench import catalogue

    listed = catalogue.list_architectures(pattern)
    print_json(listed) if as_json else print_text(catalogue.architectures_text(listed, pattern))


class DataCommands(TyperGroup):
    """Take `data NAME` for `data show NAME`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the arguments name, and those that are left."""
        is_name = bool(args) and args[0] not in self.commands and not args[0].startswith("-")
        return super().resolve_command(ctx, ["show", *args] if is_name else args)


data_app = typer.Typer(rich_markup_mode=None, cls=DataCommands)
app.add_typer(data_app, name="data")


@data_app.callback(invoke_without_command=True)
def data(context: typer.Context, data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the data sets, or count the images of one by domain.

    'lmcbench data ./birds' is short for 'lmcbench data show ./birds'.
    """
    if context.invoked_subcommand is not None:
        return
    from lmcbench import catalogue
    from lmcbench.data.listing import list_datasets, list_shifted

    listed = [*list_datasets(data_dir), *list_shifted(data_dir)]
    if as_json:
        print_json([asdict(listing) for listing in listed])
    else:
        print_text(catalogue.datasets_text(listed))


@data_app.command(epilog="Example: lmcbench data show ./birds --domain hospital")
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A path, or a data set with domains.")],
    domain: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="The column of domains, or 'folder' for folders DOMAIN/CLASS; default: found by its name.",
        ),
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Count the images of a data set by domain and class.

    No image is read. Columns that may be domains are listed.
    """
    from lmcbench import catalogue
    from lmcbench.data.contents import read_contents
    from lmcbench.data.listing import describe_location
    from lmcbench.data.sources import SOURCES

    if name in SOURCES and not SOURCES[name].domains:
        print_text(f"{name}: {SOURCES[name].summary}; {describe_location(name, data_dir)}")
        return
    found = read_contents(name, data_dir, domain)
    print_json(catalogue.contents_table(found)) if as_json else print_text(catalogue.contents_text(found))


@data_app.command(epilog="Example: lmcbench data fetch cifar10")
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A data set that 'lmcbench data' lists.")],
) -> None:
    """Download a data set and decode it into the cache.

    The source is the Hugging Face hub, at the pinned revision of the data set.
    """
    from lmcbench.data.open_dataset import fetch_dataset

    found = fetch_dataset(name)
    sizes = f"{len(found.train):,} training and {len(found.test):,} test images"
    print_text(f"{name} is here: {sizes} from {found.source}.")


@app.command()
def doctor(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show the device, versions and data that a run would use."""
    from lmcbench.doctor import examine, report_text

    found = examine(data_dir)
    print_json(found) if as_json else print_text(report_text(found))
