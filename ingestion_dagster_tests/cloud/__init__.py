"""What is deployed: the template, as far as moto stands in for AWS, and the files beside it."""
