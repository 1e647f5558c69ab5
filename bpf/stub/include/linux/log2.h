/* Empty on purpose: BCC includes it by name. */
