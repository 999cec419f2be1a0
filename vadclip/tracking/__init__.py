"""The runs in MLflow: a mirror of what the files hold."""
