"""`reconciler demo`: one command that shows a push served, a push without loss and a bad push refused.

Above the loop in the layers, but it uses the product as its users do: git, the config file and the command line.
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from reconciler.config.settings import Settings
from reconciler.demo.answers import CommitStatusWatcher
from reconciler.demo.daemon import DemoDaemon, command_line
from reconciler.demo.narrator import Narrator
from reconciler.demo.place import (
    DemoFolder,
    DemoForge,
    default_folder,
    find_interpreter,
    is_free,
    kept_listen,
    make_model,
    open_folder,
    write_config,
)
from reconciler.demo.repository import Repository, find_layout
from reconciler.demo.story import Story, StoryFailed
from reconciler.errors import SettingsError, Terminal
from reconciler.host.teardown import end_workloads


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """Where and with what.

    `folder` None: the user's state folder, or with `--once` a fresh one. `port` None: the first free one from 8080.
    """

    folder: Path | None = None
    port: int | None = None
    python: Path | None = None
    forge: DemoForge | None = None


def run(
    *,
    once: bool = False,
    stop: bool = False,
    folder: Path | None = None,
    port: int | None = None,
    python: Path | None = None,
    forge: DemoForge | None = None,
) -> int:
    """Tell the story, or end it; see DemoOptions. Returns the exit code; raises SettingsError for wrong options."""
    options, say = DemoOptions(folder, port, python, forge), Narrator(sys.stdout)
    if stop:
        return _stop(open_folder(folder or default_folder()), say)
    return _tell_once(options, say) if once else _tell(options, say)


def _tell(options: DemoOptions, say: Narrator) -> int:
    place = open_folder(options.folder or default_folder())
    story = _prepare(options, place, say)
    ok = _play(story)
    if ok:
        _say_goodbye(story, place, say)
    else:
        say.tell(f"it is left as it is, to be looked at; end it with: {_stop_line(place)}")
    return 0 if ok else 1


def _tell_once(options: DemoOptions, say: Narrator) -> int:
    # A pipeline that runs out of time sends SIGTERM: what we started must end with us then as well.
    signal.signal(signal.SIGTERM, _interrupt)
    place = open_folder(options.folder or Path(tempfile.mkdtemp(prefix="reconciler-demo-")))
    ok = False
    try:
        story = _prepare(options, place, say)
        ok = _play(story)
    finally:
        say.act("Cleaning up")
        cleaned = _stop(place, say) == 0
        if ok and cleaned and options.folder is None:
            shutil.rmtree(place.folder)
            say.tell("nothing is left")
        else:
            say.tell(f"logs and files stay in {place.folder}")
    return 0 if ok and cleaned else 1


def _prepare(options: DemoOptions, place: DemoFolder, say: Narrator) -> Story:
    """Everything that the story needs: model, repository, config and a running daemon. Raises ReconcileError."""
    origin = options.forge.remote if options.forge else place.repository
    _refuse_another(place, str(origin))
    say.act(f"Preparing {place.folder}")
    daemon = DemoDaemon(place)
    if daemon.is_running():
        say.tell("taking up the demo that runs here; its ports and interpreter stay as they are")
        settings = Settings.load(place.config)
    else:
        settings = _furnish(options, place, say)
    repository = Repository(origin, place.clone)
    repository.create(find_layout())
    answers = CommitStatusWatcher(settings.state_dir, settings.targets[0].name, say) if settings.forge.is_used else None
    story = Story(settings, daemon, repository, say, answers)
    story.fix_what_an_earlier_run_left()
    say.tell(f"a repository with the layout to copy: {origin}")
    if not daemon.is_running():
        daemon.start()
        say.tell(f"the daemon runs; its log: {place.log}")
    say.tell(f"its page: {settings.web.address} (open it now: each step below moves there as well)")
    return story


def _refuse_another(place: DemoFolder, origin: str) -> None:
    """What is in the folder follows one repository for good."""
    known = place.settings()
    if known and known.source.url != origin:
        raise SettingsError(f"{place.folder}: has a demo of {known.source.url}; name another folder with --dir")


def _furnish(options: DemoOptions, place: DemoFolder, say: Narrator) -> Settings:
    python = find_interpreter(options.python, place)
    asked = f"127.0.0.1:{options.port}"
    if options.port and not is_free(asked) and kept_listen(place.settings()) != asked:
        raise SettingsError(f"--port {options.port}: something listens there already; choose another port")
    say.tell(f"making a tiny model with {python}; this loads torch and takes a moment")
    say.tell("made" if make_model(place, python) else "it was made before")
    return write_config(place, python, options.port, options.forge)


def _play(story: Story) -> bool:
    try:
        story.tell(story.repository.head())
    except (StoryFailed, Terminal) as error:
        story.say.act("This was not as promised")
        story.say.block(str(error))
        story.say.tell("the daemon's log ends like this:")
        story.say.block(story.daemon.last_words())
        return False
    return True


def _stop(place: DemoFolder, say: Narrator) -> int:
    DemoDaemon(place).stop()
    say.tell("the daemon has ended")
    settings = place.settings()
    left = end_workloads(settings) if settings else []
    for what in left:
        say.tell(f"still there: {what}")
    if not left:
        say.tell(f"models and proxy have ended; files stay in {place.folder}")
    return 1 if left else 0


def _say_goodbye(story: Story, place: DemoFolder, say: Narrator) -> None:
    say.act("All as promised. It stays running.")
    say.block(
        f"""ask it     curl http://{story.address}/v1/completions -H 'Content-Type: application/json' \\
             -d '{{"model": "tiny", "prompt": "hello", "max_tokens": 16}}'
look       {story.settings.web.address}, or {command_line(place, "status")}
change it  git clone {story.repository.origin} models && cd models
           edit demo/tiny.yaml, commit, git push
end it     {_stop_line(place)}"""
    )


def _stop_line(place: DemoFolder) -> str:
    option = "" if place.folder == default_folder() else f" --dir {place.folder}"
    return command_line(place, "demo", "--stop").partition(" --config")[0] + option


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


__all__ = ["run"]
