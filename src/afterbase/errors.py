"""What can go wrong in the world outside, each said in one sentence that names what came, what was allowed and what to do."""


class AfterbaseError(Exception):
    """A failure that its reader can act on; the command line prints it without a traceback and exits with 2."""


class ConfigError(AfterbaseError):
    """A recipe or an override asks for something that does not exist or does not fit together."""


class DataError(AfterbaseError):
    """A data file is missing, malformed or empty, or a row does not fit the model."""


class CheckpointError(AfterbaseError):
    """A checkpoint's tensors, config or tokenizer do not fit the model they are meant for."""


class StorageError(AfterbaseError):
    """A directory cannot be written or the disk is full; what was written before stays whole."""


class EngineError(AfterbaseError):
    """The engine cannot serve a request, for example because it is longer than the context."""


class TooLong(EngineError):
    """A prompt, or a prompt with its answer, is longer than the context or the memory for it."""


class Busy(EngineError):
    """As many requests run and wait as may; the same one may be served later."""


class FullDisk(StorageError):
    """There is no room left on the disk; the same write succeeds once there is."""


class LearningError(AfterbaseError):
    """Update after update gave numbers that nothing can be learned from."""


class Notice(UserWarning):
    """Something that its reader should know, and that changes no result; the command line prints it as one line."""


class Stopped(KeyboardInterrupt):
    """The process was asked to stop and has done so in good order; its text says how far it came. The command line exits with 0.

    It passes through everything that Ctrl-C passes through, `except Exception` and asyncio's loop among them.
    """
