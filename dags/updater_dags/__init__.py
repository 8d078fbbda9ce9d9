"""What the DAG files beside this folder have in common. No DAG is in it, and Airflow looks for none
here (.airflowignore). Airflow and the standard library only."""
