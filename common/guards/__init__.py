"""What stands around the story of python_tutorial_client.py. Each module names the danger that it is for."""
from common.guards import start_up  # First: it speaks when one of the others cannot be imported.
from common.guards.accounts import open_account
from common.guards.clean_up import cleaned_up_after_errors, say_what_is_left
from common.guards.command_line import parse_arguments
from common.guards.downloads import DownloadError, path_inside, whole_file
from common.guards.end_of_run import errors_end_in_one_line, print_error
from common.guards.names import make_names_free, recipe, renew_pool
from common.guards.one_line import one_line
from common.guards.outcome import output_name, print_failed_tasks, print_top_words
from common.guards.patience import StorageRetries, patient
from common.guards.run import Run
from common.guards.watch import WaitError, watch_over_job
from common.side_by_side import side_by_side

__all__ = ['DownloadError', 'Run', 'StorageRetries', 'WaitError', 'cleaned_up_after_errors', 'errors_end_in_one_line',
           'make_names_free', 'one_line', 'open_account', 'output_name', 'parse_arguments', 'path_inside', 'patient',
           'print_error', 'print_failed_tasks', 'print_top_words', 'recipe', 'renew_pool', 'say_what_is_left',
           'side_by_side', 'start_up', 'watch_over_job', 'whole_file']
