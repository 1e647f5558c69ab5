"""Who is it: from cgroups and addresses to names, with the way each name was known."""
