"""Where MLflow and a framework meet: trained models as artifacts that load and serve anywhere."""
