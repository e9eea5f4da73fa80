"""`diffcps data …`: the commands, one or two in a file."""

from typing import Annotated

import tyro

from diffcps.cli.data.checking import CheckData
from diffcps.cli.data.getting import CollectData, DownloadData, TrainPolicy
from diffcps.cli.data.listing import ImportData, ListData, MinariData

DataCommand = (
    Annotated[ListData, tyro.conf.subcommand("list")]
    | Annotated[DownloadData, tyro.conf.subcommand("download")]
    | Annotated[CheckData, tyro.conf.subcommand("check")]
    | Annotated[CollectData, tyro.conf.subcommand("collect")]
    | Annotated[ImportData, tyro.conf.subcommand("import")]
    | Annotated[MinariData, tyro.conf.subcommand("minari")]
    | Annotated[TrainPolicy, tyro.conf.subcommand("train-policy")]
)
