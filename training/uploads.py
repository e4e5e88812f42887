"""What a training run may send to other machines: nothing but metrics, unless `--allow_upload`, and then the model only.

`--push_to_hub` of Transformers uploads the whole output directory: completions, arguments and records of the run as well. So
it is switched off in the trainer, and `HubUpload` sends the files of the finished model to a private repository.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from transformers import TrainingArguments

    from training.arguments import DataArguments

# Files of a model's directory that are uploaded; all others stay.
MODEL_FILES = (
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)


def model_files(folder: Path) -> list[Path]:
    """The existing files of `MODEL_FILES`, by name."""
    return sorted(path for pattern in MODEL_FILES for path in folder.glob(pattern) if path.is_file())


# Trackers that can be limited to metrics and arguments → environment variables that make them upload checkpoints or code. The
# trackers that Transformers knows besides these upload checkpoints, source code or the console's output on their own.
TRACKERS: dict[str, tuple[str, ...]] = {
    "azure_ml": (),
    "codecarbon": (),
    "kubeflow": (),
    "mlflow": ("HF_MLFLOW_LOG_ARTIFACTS",),
    "tensorboard": (),
    "trackio": (),
    "wandb": ("WANDB_LOG_MODEL", "WANDB_SAVE_CODE"),
}
SPACES = ("TRACKIO_SPACE_ID", "TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID")  # variables that make Trackio log to the Hub
NOT_SET = ("", "0", "false", "no", "off", "none")  # values of a variable that asks for nothing

# Set for every run, before a library reads them: W&B would upload the console's output (with --show_sample that is patient
# text), the command line and the changes of the git checkout; TRL and vLLM report their use.
ENVIRONMENT = {
    "WANDB_CONSOLE": "off",
    "WANDB_DISABLE_CODE": "true",
    "WANDB_DISABLE_GIT": "true",
    "WANDB__DISABLE_META": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


def check_uploads(args: TrainingArguments, script_args: DataArguments) -> None:
    """Refuse a run that would upload more than metrics, before it reads any data.

    Raises:
        UserError: completions, checkpoints or source code would be uploaded; or the model or metrics would be uploaded to the
            Hub without `--allow_upload`.
    """
    if getattr(args, "log_completions_hub_repo", None):
        fix = "Omit it: completions are written to OUTPUT/completions/"
        raise UserError(f"--log_completions_hub_repo: expected none, got a repository for text about patients. {fix}.")
    for tracker in args.report_to:
        if tracker not in TRACKERS:
            wrong = f"expected none or trackers that send metrics only ({', '.join(TRACKERS)}), got {tracker}"
            raise UserError(f"--report_to: {wrong}, which uploads other files too. Choose another.")
        for name in filter(_is_set, TRACKERS[tracker]):
            wrong = f"expected a tracker that gets metrics only, got a request to upload files to {tracker}"
            raise UserError(f"{name}: {wrong}. Unset it, and upload the model with --push_to_hub --allow_upload.")
    requests = [*_hub_flags(args), *(name for name in SPACES if "trackio" in args.report_to and _is_set(name))]
    if requests and not script_args.allow_upload:
        fix = "Add --allow_upload to upload the files of the model, or the metrics of Trackio, to a private repository"
        raise UserError(f"{requests[0]}: expected no upload, because --allow_upload is not given, got one. {fix}.")
    to_space = any("trackio" in name.lower() for name in requests)
    if to_space and getattr(script_args, "log_completions_to_tracker", False):
        wrong = "expected a tracker on this machine, got a Trackio Space on the Hub"
        raise UserError(f"--log_completions_to_tracker: {wrong}. Omit {requests[0]}.")


def check_trackers(trackers: Iterable[str]) -> None:
    """Report a tracker whose package is not installed."""
    from transformers.integrations import get_reporting_integration_callbacks

    try:
        for callback in get_reporting_integration_callbacks(list(trackers)):
            callback()
    except (RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(f"--report_to: expected trackers that are installed, got: {reason}.") from None


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() not in NOT_SET


def _hub_flags(args: TrainingArguments) -> Iterator[str]:
    """The flags about the Hub that were given. `--hub_private_repo` alone uploads nothing."""
    for argument in fields(args):
        of_hub = argument.name.startswith(("push_to_hub", "hub_", "trackio_")) and argument.name != "hub_private_repo"
        if of_hub and getattr(args, argument.name) not in (argument.default, False):
            yield f"--{argument.name}"


@dataclass(frozen=True)
class HubUpload:
    """An upload of a finished model to the Hub, as `--push_to_hub --allow_upload` asks for.

    Attributes:
        repository: NAME or OWNER/NAME.
        private: whether the repository must be private.
        revision: branch; None: the main one.
        token: None: the one of `hf auth login` or HF_TOKEN.
    """

    repository: str
    private: bool = True
    revision: str | None = None
    token: str | None = None

    @classmethod
    def from_arguments(cls, args: TrainingArguments) -> HubUpload | None:
        """The upload that the arguments ask for, if any: private unless `--hub_private_repo False`."""
        if not args.push_to_hub:
            return None
        name = args.hub_model_id or Path(args.output_dir).resolve().name
        return cls(name, args.hub_private_repo is not False, args.hub_revision, args.hub_token)

    def send(self, folder: Path) -> None:
        """Upload the files of the model in `folder`, in one commit, and print where to."""
        from huggingface_hub import CommitOperationAdd

        additions = [CommitOperationAdd(path_in_repo=path.name, path_or_fileobj=path) for path in model_files(folder)]
        api, repository = self.open()
        with self._reported():
            api.create_commit(repository, additions, commit_message="Upload the model", revision=self.revision)
        print(f"uploaded to {api.endpoint}/{repository}")

    def open(self) -> tuple[HfApi, str]:
        """The Hub's API and the full name of the repository, which is created if it does not exist.

        Called before training too, so that a wrong name or token is reported at once.

        Raises:
            UserError: the Hub refused, or the repository exists and is public although it must be private.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        api = HfApi(token=self.token)
        with self._reported():
            try:
                return api, api.create_repo(self.repository, private=self.private).repo_id
            except HfHubHTTPError:  # it exists, or the token may only write to existing ones
                name = api.create_repo(self.repository, private=self.private, exist_ok=True).repo_id
                is_private = api.model_info(name).private
        if self.private and not is_private:
            fix = "Make it private, choose another --hub_model_id, or pass --hub_private_repo False"
            raise UserError(f"--hub_model_id {name}: expected a private repository, got a public one. {fix}.")
        return api, name

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        from httpx import HTTPError

        try:
            yield
        except (OSError, ValueError, HTTPError) as error:  # refused, no connection, no token, not a name of a repository
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
            fix = "Log in with `hf auth login`, check --hub_model_id, or omit --push_to_hub"
            raise UserError(
                f"--push_to_hub: expected to write to {self.repository} on the Hub, got: {reason}. {fix}."
            ) from None
