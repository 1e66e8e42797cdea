"""Where manifests come from: a folder, or a git repository. Neither decides anything; both only say what is there."""
