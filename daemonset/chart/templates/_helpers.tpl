{{- define "sidelight.name" -}}
{{- default .Release.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "sidelight.selector" -}}
app.kubernetes.io/name: sidelight
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "sidelight.labels" -}}
{{ include "sidelight.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "sidelight.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (include "sidelight.name" .) .Values.serviceAccount.name }}
{{- else -}}
{{ required "serviceAccount.name is needed when none is created" .Values.serviceAccount.name }}
{{- end -}}
{{- end -}}
