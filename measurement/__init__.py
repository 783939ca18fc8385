"""What is measured, as opposed to how: time, memory, energy and machine state. Knows no framework, workload or MLflow."""
